// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/capture/recording.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/version.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;

// SIGINT and SIGTERM as something to read, for as long as it lives.
class Interrupts {
 public:
  Interrupts() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
    fd_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ~Interrupts() {
    // One that has come was the wish to end, which is fulfilled.
    signalfd_siginfo taken;
    while (read(fd_.get(), &taken, sizeof(taken)) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  int fd() const { return fd_.get(); }

 private:
  sigset_t before_;
  UniqueFd fd_;
};

std::string OperatingSystem() {
  utsname name{};
  return uname(&name) == 0 ? absl::StrCat(name.sysname, " ", name.release) : "";
}

class Recorder {
 public:
  Recorder(std::vector<std::unique_ptr<CaptureSource>> sources, const RecordingOptions& options)
      : sources_(std::move(sources)), options_(options), received_(sources_.size()) {
    // By number: Debian 12's <sys/pidfd.h> has no declaration that C++ links.
    if (options_.pid > 0) {
      process_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, options_.pid, 0)));
    }
  }

  Recorded Run() {
    std::string head =
        PcapngSection(OperatingSystem(), absl::StrCat("vhostctl ", LibraryVersion()));
    for (const auto& source : sources_) head += PcapngInterfaceBlock(source->Describe());
    bool more = options_.write(head);
    while (more && recorded_.packets < options_.count) {
      more = Wait();
      if (!ReadAll()) break;
    }
    Finish();
    return recorded_;
  }

 private:
  // False: it is to end, with what has come by now.
  bool Wait() {
    std::vector<pollfd> ready = {{interrupts_.fd(), POLLIN, 0}, {process_.get(), POLLIN, 0}};
    int timeout_ms = -1;
    for (const auto& source : sources_) {
      ready.push_back({source->fd(), POLLIN, 0});
      if (const int wait_ms = source->wait_ms(); wait_ms >= 0) {
        timeout_ms = timeout_ms < 0 ? wait_ms : std::min(timeout_ms, wait_ms);
      }
    }
    if (poll(ready.data(), ready.size(), timeout_ms) < 0) return errno == EINTR;
    recorded_.process_ended = ready[1].revents != 0;
    return ready[0].revents == 0 && !recorded_.process_ended;
  }

  // False: no more can be read or written.
  bool ReadAll() {
    std::string text;
    for (size_t i = 0; i < sources_.size(); ++i) {
      std::vector<PcapngPacket> packets;
      const absl::Status status = sources_[i]->Read(&packets);
      received_[i] += packets.size();
      for (PcapngPacket& packet : packets) {
        if (recorded_.packets == options_.count) break;
        packet.interface = static_cast<uint32_t>(i);
        text += PcapngPacketBlock(packet);
        ++recorded_.packets;
      }
      if (!status.ok()) recorded_.status = status;
    }
    return (text.empty() || options_.write(text)) && recorded_.status.ok();
  }

  void Finish() {
    const int64_t end_ns = absl::GetCurrentTimeNanos();
    std::string text;
    for (size_t i = 0; i < sources_.size(); ++i) {
      const uint64_t dropped = sources_[i]->Dropped();
      recorded_.dropped += dropped;
      text += PcapngStatisticsBlock({.interface = static_cast<uint32_t>(i),
                                     .start_ns = start_ns_,
                                     .end_ns = end_ns,
                                     .received = received_[i] + dropped,
                                     .dropped = dropped});
    }
    options_.write(text);
    // A process that has ended answers no more, which is no failure of its own.
    if (recorded_.process_ended) recorded_.status = absl::OkStatus();
  }

  const std::vector<std::unique_ptr<CaptureSource>> sources_;
  const RecordingOptions& options_;
  const Interrupts interrupts_;
  const int64_t start_ns_ = absl::GetCurrentTimeNanos();
  UniqueFd process_;
  std::vector<uint64_t> received_;
  Recorded recorded_;
};

}  // namespace

Recorded Record(std::vector<std::unique_ptr<CaptureSource>> sources,
                const RecordingOptions& options) {
  return Recorder(std::move(sources), options).Run();
}

}  // namespace vhost::ctl
