// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Follows the processes behind all control sockets, also those that come while it runs.
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/listener.h"
#include "vhost/control/report_json.h"
#include "vhost/control/runtime_directory.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;

// How often to look for processes that have come.
constexpr absl::Duration kRescan = absl::Seconds(1);

struct Wanted {
  std::string vm;                                         // empty: any
  std::string device;                                     // empty: all
  uint64_t count = std::numeric_limits<uint64_t>::max();  // events until the end
};

// One process that is listened to.
struct Source {
  UniqueFd fd;
  std::string input;
  std::optional<control::ProcessInfo> process;  // once it has answered
};

class Follower {
 public:
  Follower(const Invocation& invocation, Wanted wanted)
      : invocation_(invocation), wanted_(std::move(wanted)), left_(wanted_.count) {}

  Outcome Run() {
    while (left_ > 0) {
      Rescan();
      if (!invocation_.socket.empty() && sources_.empty()) return Ended();
      if (!WaitAndRead()) break;
      if (invocation_.write == nullptr) break;
    }
    return Refusals();
  }

 private:
  void Rescan() {
    const absl::Time now = absl::Now();
    if (now < next_rescan_) return;
    next_rescan_ = now + kRescan;
    std::vector<std::string> paths;
    if (!invocation_.socket.empty()) {
      if (!heard_) paths.push_back(invocation_.socket);
    } else {
      paths = invocation_.directory.empty() ? control::FindSockets()
                                            : control::SocketsIn(invocation_.directory);
    }
    for (const std::string& path : paths) {
      if (!sources_.contains(path) && MayAsk(path)) Subscribe(path);
    }
  }

  // A device may be added later and a follower may leave; who is not let in will not be.
  bool MayAsk(const std::string& path) const {
    const auto refused = refused_.find(path);
    return refused == refused_.end() ||
           (invocation_.socket.empty() &&
            (absl::IsNotFound(refused->second) || absl::IsResourceExhausted(refused->second)));
  }

  void Subscribe(const std::string& path) {
    absl::StatusOr<UniqueFd> fd = control::Connect(path);
    if (!fd.ok()) {
      // A dead process's socket, or one whose process is about to listen: it is tried again.
      if (invocation_.socket.empty() && absl::IsUnavailable(fd.status())) return;
      return Refuse(path, fd.status());
    }
    const std::string line = control::RequestLine({.command = "events", .device = wanted_.device});
    // It fits into the buffer of a new socket.
    if (send(fd->get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
        static_cast<ssize_t>(line.size())) {
      return;
    }
    sources_[path].fd = *std::move(fd);
  }

  void Refuse(const std::string& path, const absl::Status& status) {
    refused_[path] = status;
    sources_.erase(path);
  }

  Outcome Ended() const {
    if (!refused_.empty()) return Refusals();
    return {.code = kUnreachable, .err = absl::StrCat(Printable(invocation_.socket), ": closed\n")};
  }

  // Those who have not let us in to the end.
  Outcome Refusals() const {
    Outcome outcome;
    for (const auto& [path, status] : refused_) {
      // A process without that device may be any but the one that is meant.
      if (invocation_.socket.empty() && absl::IsNotFound(status)) continue;
      outcome.code = ExitCodeOf(status);
      absl::StrAppend(&outcome.err, Printable(path), ": ", Printable(std::string(status.message())),
                      "\n");
    }
    return outcome;
  }

  // False: nobody reads what is written.
  bool WaitAndRead() {
    std::vector<pollfd> ready;
    std::vector<std::string> paths;
    for (const auto& [path, source] : sources_) {
      ready.push_back({source.fd.get(), POLLIN, 0});
      paths.push_back(path);
    }
    const int timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(kRescan));
    if (poll(ready.data(), ready.size(), timeout_ms) < 0 && errno != EINTR) return false;
    for (size_t i = 0; i < ready.size(); ++i) {
      if (ready[i].revents != 0 && !Read(paths[i])) return false;
    }
    return true;
  }

  bool Read(const std::string& path) {
    Source& source = sources_.at(path);
    std::vector<char> buffer(64 << 10);
    const ssize_t count = recv(source.fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (count <= 0 || source.input.size() > kMaxReplyBytes) {
      sources_.erase(path);  // It has ended; another one may come with that path.
      return true;
    }
    source.input.append(buffer.data(), static_cast<size_t>(count));
    size_t newline;
    while (left_ > 0 && (newline = source.input.find('\n')) != std::string::npos) {
      const std::string line = source.input.substr(0, newline);
      source.input.erase(0, newline + 1);
      if (source.process.has_value()) {
        if (!Tell(path, *source.process, line)) return false;
      } else if (absl::Status status = Greet(line, &source); !status.ok()) {
        Refuse(path, status);
        return true;
      } else {
        refused_.erase(path);
      }
    }
    return true;
  }

  absl::Status Greet(const std::string& line, Source* source) {
    const absl::StatusOr<std::string> result =
        control::ParseReply(line, ServerPid(source->fd.get()));
    if (!result.ok()) return result.status();
    const auto json = control::Member(*result, "process");
    if (!json.ok()) return json.status();
    auto process = control::ProcessInfoFromJson(*json);
    if (!process.ok()) return process.status();
    source->process = *std::move(process);
    heard_ = true;
    return absl::OkStatus();
  }

  bool IsWanted(const control::ProcessInfo& process) const {
    return wanted_.vm.empty() || wanted_.vm == process.vm ||
           wanted_.vm == absl::StrCat(process.pid);
  }

  bool Tell(const std::string& path, const control::ProcessInfo& process, const std::string& line) {
    const auto json = control::Member(line, "event");
    if (!json.ok() || !IsWanted(process)) return true;
    const std::string dropped = control::Member(line, "dropped").value_or("0");
    --left_;
    if (invocation_.json) {
      return Write(JsonObject()
                       .Text("socket", path)
                       .Text("vm", process.vm)
                       .Value("pid", process.pid)
                       .Json("dropped", dropped)
                       .Json("event", *json)
                       .Done());
    }
    const absl::StatusOr<DeviceEvent> event = control::DeviceEventFromJson(*json);
    if (!event.ok()) return true;
    if (dropped != "0" &&
        !Write(absl::StrCat("(", dropped, " events before this one were lost)"))) {
      return false;
    }
    return Write(absl::StrCat(
        event->report.time, " ", process.vm, "/", event->device, " ", event->report.what,
        event->report.queue.has_value() ? absl::StrCat(" queue ", *event->report.queue) : "",
        event->report.text.empty() ? "" : absl::StrCat(": ", event->report.text)));
  }

  bool Write(const std::string& line) const {
    if (invocation_.write == nullptr) return false;
    return invocation_.write(absl::StrCat(invocation_.json ? line : Printable(line), "\n"));
  }

  const Invocation& invocation_;
  const Wanted wanted_;
  uint64_t left_;
  std::map<std::string, Source> sources_;
  std::map<std::string, absl::Status> refused_;  // what each said last
  bool heard_ = false;                           // somebody has answered
  absl::Time next_rescan_ = absl::InfinitePast();
};

}  // namespace

Outcome Events(const Invocation& invocation) {
  Wanted wanted;
  if (invocation.arguments.size() > 1) return WrongUsage("events takes one argument, [VM/]DEVICE");
  if (invocation.arguments.size() == 1) {
    const std::string& name = invocation.arguments[0];
    const size_t slash = name.find('/');
    if (slash != std::string::npos) wanted.vm = name.substr(0, slash);
    wanted.device = slash == std::string::npos ? name : name.substr(slash + 1);
  }
  if (!invocation.count.empty() &&
      (!absl::SimpleAtoi(invocation.count, &wanted.count) || wanted.count == 0)) {
    return WrongUsage("--count: a number from 1");
  }
  return Follower(invocation, std::move(wanted)).Run();
}

}  // namespace vhost::ctl
