// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where a device's packets are to be seen, and a capture there.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "src/vhostctl/capture/recording.h"
#include "src/vhostctl/capture/source.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/find_device.h"
#include "src/vhostctl/foreign/find.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/report_json.h"

namespace vhost::ctl {
namespace {

using Sources = std::vector<std::unique_ptr<CaptureSource>>;

struct Plan {
  pid_t pid = 0;
  Sources sources;
  std::string note;  // what is not seen, and why
};

absl::Status Add(absl::StatusOr<std::unique_ptr<CaptureSource>> source, Plan* plan) {
  if (!source.ok()) return source.status();
  plan->sources.push_back(*std::move(source));
  return absl::OkStatus();
}

absl::Status PlanNet(const Found& found, const DeviceReport& report, const CaptureWanted& wanted,
                     Plan* plan) {
  if (report.taps.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(report.name, ": it is on no TAP, so its frames are not seen on this host"));
  }
  return Add(CaptureTap(report.taps[0].name, found.process.pid, wanted), plan);
}

// Both places where it may be served are looked at, so that a handover is followed.
absl::Status PlanVsock(const Found& found, const DeviceReport& report, const CaptureWanted& wanted,
                       Plan* plan) {
  const absl::Status in_process = Add(CaptureInProcess(found.socket, report.name, wanted), plan);
  if (!in_process.ok() && !absl::IsFailedPrecondition(in_process)) return in_process;
  if (report.policy == "never") return in_process;
  const absl::Status kernel = Add(CaptureKernelVsock(report.guest_cid, wanted), plan);
  if (kernel.ok()) return kernel;
  const bool kernel_serves =
      report.backend.has_value() && report.backend->kind == BackendKind::kKernel;
  if (plan->sources.empty() || kernel_serves) return kernel;
  plan->note = absl::StrCat(
      "without what the kernel may serve after a handover: ", std::string(kernel.message()), "\n");
  return absl::OkStatus();
}

absl::StatusOr<Plan> PlanOwn(const Found& found, const CaptureWanted& wanted) {
  const absl::StatusOr<DeviceReport> report = control::DeviceReportFromJson(found.device_json);
  if (!report.ok()) return report.status();
  Plan plan = {.pid = found.process.pid};
  absl::Status status;
  if (report->id == DeviceId::kNet) {
    status = PlanNet(found, *report, wanted, &plan);
  } else if (report->id == DeviceId::kVsock) {
    status = PlanVsock(found, *report, wanted, &plan);
  } else {
    status = absl::FailedPreconditionError(
        absl::StrCat(found.device, ": only network and socket devices have packets"));
  }
  if (!status.ok()) return status;
  return plan;
}

// What /proc tells of it. A CID is only what its command line says.
absl::StatusOr<Plan> PlanForeign(const ForeignName& name, const CaptureWanted& wanted) {
  const absl::StatusOr<FoundForeign> found = FindForeignDevice(name);
  if (!found.ok()) return found.status();
  const ForeignProcess& process = found->process;
  Plan plan = {.pid = process.pid};
  absl::Status status;
  if (found->device.type == "net" && process.taps.size() == 1) {
    status = Add(CaptureTap(process.taps[0].name, process.pid, wanted), &plan);
  } else if (found->device.type == "vsock") {
    uint64_t cid = 0;
    const bool claimed =
        process.claimed_cids.size() == 1 && absl::SimpleAtoi(process.claimed_cids[0], &cid);
    status = Add(CaptureKernelVsock(claimed ? std::optional<uint64_t>(cid) : std::nullopt, wanted),
                 &plan);
    plan.note = claimed ? absl::StrCat("guest CID ", cid, " as its command line says\n")
                        : "its guest CID is not known: packets of all guests are captured\n";
  } else {
    status = absl::FailedPreconditionError(
        absl::StrCat(process.pid, "/", name.device,
                     ": which interface it is on is not known: ", PeerOf(process, found->device)));
  }
  if (!status.ok()) return status;
  return plan;
}

struct Limits {
  CaptureWanted wanted;
  RecordingOptions options;
};
// Says what is wrong with the command line, if anything is.
std::optional<Outcome> ReadOptions(const Invocation& invocation, Limits* limits) {
  if (!invocation.packets.empty() &&
      (!absl::SimpleAtoi(invocation.packets, &limits->options.count) ||
       limits->options.count == 0)) {
    return WrongUsage("--packets: a number from 1");
  }
  if (!invocation.snaplen.empty() &&
      (!absl::SimpleAtoi(invocation.snaplen, &limits->wanted.snaplen) ||
       limits->wanted.snaplen == 0)) {
    return WrongUsage("--snaplen: a number of bytes from 1");
  }
  if (!invocation.queue.empty()) {
    uint32_t queue = 0;
    if (!absl::SimpleAtoi(invocation.queue, &queue) || queue > UINT16_MAX) {
      return WrongUsage("--queue: a virtqueue's number, as vhostctl show has it");
    }
    limits->wanted.queue = queue;
  }
  if (invocation.file.empty() && isatty(STDOUT_FILENO) != 0) {
    return WrongUsage("capture writes bytes: say --write FILE, or --write - for stdout");
  }
  return std::nullopt;
}

bool IsStdout(const Invocation& invocation) {
  return invocation.file.empty() || invocation.file == "-";
}

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count < 0 && errno != EINTR) return false;
    if (count > 0) text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

std::string Counts(const Recorded& recorded) {
  return absl::StrCat(recorded.packets, recorded.packets == 1 ? " packet" : " packets", ", ",
                      recorded.dropped, " dropped");
}

Outcome Summary(const Invocation& invocation, const Plan& plan, const Recorded& recorded,
                const absl::Status& written) {
  Outcome outcome;
  if (!recorded.status.ok()) outcome = Failed(recorded.status);
  if (!written.ok()) outcome = Failed(written);
  if (recorded.process_ended) {
    outcome.code = kUnreachable;
    absl::StrAppend(&outcome.err, "process ", plan.pid, " has ended\n");
  }
  outcome.err = Printable(plan.note.substr(0, plan.note.find('\n'))) +
                (plan.note.empty() ? "" : "\n") + outcome.err;
  if (IsStdout(invocation)) {
    absl::StrAppend(&outcome.err, Counts(recorded), "\n");
  } else if (invocation.json) {
    outcome.out = JsonObject()
                      .Text("file", invocation.file)
                      .Value("packets", recorded.packets)
                      .Value("dropped", recorded.dropped)
                      .Done() +
                  "\n";
  } else {
    outcome.out = absl::StrCat(invocation.file, ": ", Counts(recorded), "\n");
  }
  return outcome;
}

Outcome RecordTo(const Invocation& invocation, Plan plan, RecordingOptions options) {
  absl::Status written;
  kernel_abi::UniqueFd file;
  options.pid = plan.pid;
  if (IsStdout(invocation)) {
    if (invocation.write == nullptr) return Failed(absl::FailedPreconditionError("no stdout"));
    options.write = invocation.write;
  } else {
    // Payload is nobody else's business.
    file = kernel_abi::UniqueFd(
        open(invocation.file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file.valid()) {
      return Failed(kernel_abi::MakeSystemError(
          {.error = errno, .subject = invocation.file, .call = "open"}));
    }
    options.write = [&](absl::string_view text) {
      if (WriteAll(file.get(), text)) return true;
      written = kernel_abi::MakeSystemError(
          {.error = errno, .subject = invocation.file, .call = "write"});
      return false;
    };
  }
  const Recorded recorded = Record(std::move(plan.sources), options);
  return Summary(invocation, plan, recorded, written);
}

}  // namespace

Outcome Capture(const Invocation& invocation) {
  Limits limits;
  if (auto wrong = ReadOptions(invocation, &limits); wrong.has_value()) return *wrong;
  absl::StatusOr<Plan> plan = Plan{};
  if (const auto foreign = ParseForeign(invocation); foreign.has_value()) {
    plan = PlanForeign(*foreign, limits.wanted);
  } else {
    Outcome outcome;
    const std::optional<Found> found = FindDevice(invocation, &outcome);
    if (!found.has_value()) return outcome;
    plan = PlanOwn(*found, limits.wanted);
  }
  if (!plan.ok()) return Failed(plan.status());
  return RecordTo(invocation, *std::move(plan), std::move(limits.options));
}

}  // namespace vhost::ctl
