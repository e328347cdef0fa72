// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What can be asked over the control socket: a table of commands, one function each. A new verb is
// a function and a row in commands.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vhost/control/connection.h"
#include "vhost/control/protocol.h"
#include "vhost/packet_capture.h"
#include "vhost/report.h"

namespace vhost::control {

// What commands are answered from and act on: the control plane, or a test's stand-in.
//
// Thread safety: called on the event loop's thread.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual ProcessInfo Process() const = 0;
  virtual std::vector<DeviceReport> Describe() const = 0;
  // NOT_FOUND names the devices that there are.
  virtual absl::StatusOr<DeviceReport> Describe(absl::string_view device) const = 0;
  // See VirtioDevice. `reason` may be empty.
  virtual absl::StatusOr<HandoverReport> Handover(absl::string_view device, BackendKind to,
                                                  absl::string_view reason) = 0;
  virtual absl::Status Pause(absl::string_view device, absl::string_view reason) = 0;
  virtual absl::Status Resume(absl::string_view device) = 0;
  // FAILED_PRECONDITION: this process sees no packets of that device, whoever serves it.
  virtual absl::StatusOr<CaptureBatch> Capture(absl::string_view device,
                                               const CaptureRequest& request) = 0;
  // See DevicePlugger. The name of the device that is there now. UNIMPLEMENTED by default.
  virtual absl::StatusOr<std::string> Plug(absl::string_view description);
  virtual absl::Status Unplug(absl::string_view device);
};

// The reply to one request line; never fails, since an error is a reply as well.
Reply Answer(Subject& subject, absl::string_view line);

// A handler for Server. `subject` must outlive it.
inline RequestHandler HandlerFor(Subject& subject) {
  return [&subject](absl::string_view line) { return Answer(subject, line); };
}

}  // namespace vhost::control
