// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a device's packets can be seen: an interface of the host's (a TAP, vsockmon), or the
// process that serves it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/vhostctl/capture/pcapng.h"

namespace vhost::ctl {

class CaptureSource {
 public:
  virtual ~CaptureSource() = default;
  virtual PcapngInterface Describe() const = 0;
  // Readable when there are packets. -1: who waits asks again after wait_ms().
  virtual int fd() const = 0;
  virtual int wait_ms() const { return -1; }
  // Appends some of those that have come; never waits for one. `interface` is left as it is. An
  // error ends the capture.
  virtual absl::Status Read(std::vector<PcapngPacket>* packets) = 0;
  // Packets that were there and are not among those read, as of the last time it could be asked.
  virtual uint64_t Dropped() = 0;
};

// Numbers a guest's virtqueues as its device does: of a network device 0 (rx0), 1 (tx0), 2 (rx1)...
struct CaptureWanted {
  uint32_t snaplen = 0;  // bytes of a packet; 0: all
  std::optional<uint32_t> queue;
};

// The frames of a TAP by a packet socket, in the network namespace of process `pid`.
absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureTap(const std::string& tap, pid_t pid,
                                                          const CaptureWanted& wanted);

// What the kernel's vsock carries for that guest CID, or for all (nullopt), by a vsockmon interface
// in a network namespace of its own, which ends with the source however that ends. Needs root.
absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureKernelVsock(std::optional<uint64_t> guest_cid,
                                                                  const CaptureWanted& wanted);

// What the process behind `socket` carries itself for its socket device, as frames of vsockmon,
// with the chain of each packet. FAILED_PRECONDITION: it never carries any.
absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureInProcess(const std::string& socket,
                                                                const std::string& device,
                                                                const CaptureWanted& wanted);

// A packet of a socket device as it is in the ring, as a frame of vsockmon. One that is no whole
// header is left as it is.
std::string VsockmonFrame(const std::string& packet);

}  // namespace vhost::ctl
