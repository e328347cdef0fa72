// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What passes the control socket, from a client that means harm and from a server that does: the
// first byte of an input says which, the rest is what it says.
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/control/commands.h"
#include "vhost/control/connection.h"
#include "vhost/control/protocol.h"
#include "vhost/control/report_json.h"
#include "vhost/control/sample_report.h"
#include "vhost/control/state_json.h"

namespace {

using vhost::control::Connection;

void Check(bool kept) {
  if (!kept) abort();
}

class Devices final : public vhost::control::Subject {
 public:
  vhost::control::ProcessInfo Process() const override { return {"vm", 1, "0"}; }
  std::vector<vhost::DeviceReport> Describe() const override {
    return {vhost::control::SampleNet(), vhost::control::SampleVsock()};
  }
  absl::StatusOr<vhost::DeviceReport> Describe(absl::string_view device) const override {
    if (device == "net0") return vhost::control::SampleNet();
    return absl::NotFoundError("there is none");
  }
  absl::StatusOr<vhost::HandoverReport> Handover(absl::string_view, vhost::BackendKind to,
                                                 absl::string_view reason) override {
    return vhost::HandoverReport{.to = to, .reason = std::string(reason)};
  }
  absl::Status Pause(absl::string_view, absl::string_view) override { return absl::OkStatus(); }
  absl::Status Resume(absl::string_view) override { return absl::OkStatus(); }
  absl::StatusOr<vhost::CaptureBatch> Capture(absl::string_view device,
                                              const vhost::CaptureRequest& request) override {
    if (device != "net0") return absl::NotFoundError("there is none");
    vhost::CaptureBatch batch;
    batch.next = request.after.value_or(0) + 1;
    return batch;
  }
};

// Each request has one reply of one line, which a client of ours can read.
void OfAClient(absl::string_view line) {
  Devices devices;
  const vhost::control::Reply reply = vhost::control::Answer(devices, line);
  Check(!reply.line.empty() && reply.line.find('\n') == reply.line.size() - 1);
  const auto parsed = vhost::control::ParseReply(reply.line);
  Check(parsed.ok() || !absl::IsDataLoss(parsed.status()));
}

// A connection that gets the bytes in pieces, and events between them, keeps no more than it says.
void OfAConnection(absl::string_view bytes) {
  Devices devices;
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return;
  const kernel_abi::UniqueFd client(ends[0]);
  Connection::Clock::time_point now{};
  Connection connection(kernel_abi::UniqueFd(ends[1]),
                        {.idle = std::chrono::seconds(60), .exchange = std::chrono::seconds(5)},
                        now);
  const vhost::control::RequestHandler handler = vhost::control::HandlerFor(devices);
  while (!bytes.empty()) {
    const size_t piece = std::min<size_t>(bytes.size(), 1 + static_cast<uint8_t>(bytes[0]) % 64);
    if (send(client.get(), bytes.data(), piece, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return;
    bytes.remove_prefix(piece);
    for (int turn = 0; turn < 4; ++turn) {
      now += std::chrono::milliseconds(1);
      if (connection.Advance(handler, now) == Connection::Waits::kForNothing) return;
      const auto offered = connection.Offer("net0", R"({"device":"net0"})", 0, now);
      Check(!offered.has_value() || connection.is_subscribed());
      if (offered == Connection::Waits::kForNothing) return;
    }
    char reply[65536];
    while (recv(client.get(), reply, sizeof(reply), MSG_DONTWAIT) > 0) {
    }
  }
}

// What another process answers; what was understood is written again without loss.
void OfAServer(absl::string_view line) {
  (void)vhost::control::ParseReply(line);
  (void)vhost::control::ProcessInfoFromJson(line);
  (void)vhost::control::DeviceSummaryFromJson(line);
  (void)vhost::control::DeviceEventFromJson(line);
  (void)vhost::control::DeviceStateFromJson(line);
  (void)vhost::control::Indent(line);
  const auto report = vhost::control::DeviceReportFromJson(line);
  if (!report.ok()) return;
  const std::string once = vhost::control::ToJson(*report);
  const auto again = vhost::control::DeviceReportFromJson(once);
  Check(again.ok() && vhost::control::ToJson(*again) == once);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      OfAClient(rest);
      break;
    case 1:
      OfAConnection(rest);
      break;
    default:
      OfAServer(rest);
  }
  return 0;
}
