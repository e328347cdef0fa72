// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
//   vsock_echo_guest UDS_PATH
//
// In-process vsock with a guest behind it that is none: for clients of the host that want to be
// tried without a VM (vsock_clients.py). The guest listens on port 80 and sends back what it is
// sent, on both kinds of connections; port 81 answers "bye" and closes. It takes commands on its
// standard input: "connect PORT [seqpacket]" has it connect to a port of the host and send back
// likewise, and the end of the input ends it. Prints "ready", and for each command "established" or
// "refused".
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernel-abi/event_fd.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "tests/fakes/vsock_guest.h"
#include "vhost/inprocess/vsock_backend.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::EventFd;
using kernel_abi::LinuxKernel;
using Socket = fakes::VsockGuest::Socket;

constexpr uint64_t kCid = 3;
constexpr uint32_t kEchoPort = 80;
constexpr uint32_t kByePort = 81;

class EchoGuest {
 public:
  EchoGuest() {
    for (int i = 0; i < 2; ++i) {
      kicks_.push_back(*EventFd::Create(LinuxKernel()));
      calls_.push_back(*EventFd::Create(LinuxKernel()));
    }
    guest_.Listen(kEchoPort);
    guest_.Listen(kByePort);
  }

  int Run(const std::string& path) {
    auto backend = InProcessVsockBackend::Create(LinuxKernel(),
                                                 {.guest_cid = kCid, .host = {.uds_path = path}});
    if (!backend.ok()) {
      std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
      return 1;
    }
    const auto table = ram_.table();
    BackendStart start{.acked = {VirtioFeature::kVersion1, VirtioFeature::kVsockSeqpacket},
                       .memory = table,
                       .vrings = {}};
    const VringSetup setups[] = {driver_.receive().setup(), driver_.transmit().setup()};
    for (size_t i = 0; i < 2; ++i) {
      start.vrings.push_back({.queue = static_cast<int>(i),
                              .vring = *Vring::Create(setups[i], VringLayout::kSplit, *table),
                              .kick_fd = kicks_[i].get(),
                              .call_fd = calls_[i].get()});
    }
    if (const absl::Status status = (*backend)->Start(start); !status.ok()) {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
    Tell("ready");
    while (Turn()) {
    }
    (*backend)->Stop();
    return 0;
  }

 private:
  void Kick() {
    if (driver_.transmit().KickWanted()) kicks_[1].Signal();
    if (driver_.receive().KickWanted()) kicks_[0].Signal();
  }
  static void Tell(const char* what) {
    std::printf("%s\n", what);
    std::fflush(stdout);
  }

  // Waits for something to do, and does it. False at the end of the input.
  bool Turn() {
    pollfd fds[] = {{calls_[0].get(), POLLIN, 0}, {calls_[1].get(), POLLIN, 0}, {0, POLLIN, 0}};
    // A transmit queue that was full has no interrupt that tells of its sockets' backlog.
    poll(fds, 3, 20);
    calls_[0].Drain();
    calls_[1].Drain();
    if (fds[2].revents != 0 && !ReadCommands()) return false;
    guest_.Receive();
    guest_.ForEachSocket([this](Socket& socket) { Serve(socket); });
    Kick();
    return true;
  }

  void Serve(Socket& socket) {
    if (socket.reset) return;
    if (&socket == waited_for_ && socket.established) Told("established");
    if (!socket.established) return;
    if (socket.guest_port == kByePort) {
      if (socket.sent != 0) return;
      socket.Send("bye");
      socket.Shutdown(kernel_abi::kVsockShutdownReceive | kernel_abi::kVsockShutdownSend);
      return;
    }
    if (socket.type == kernel_abi::kVsockTypeSeqpacket) {
      while (!socket.messages.empty() && socket.credit() >= socket.messages.front().size()) {
        socket.Send(socket.messages.front());
        socket.messages.erase(socket.messages.begin());
      }
    } else {
      socket.received.erase(0, socket.Send(socket.received));
    }
    // The client sends no more: neither does the echo, once it has said everything.
    if ((socket.peer_shutdown & kernel_abi::kVsockShutdownSend) != 0 && socket.received.empty() &&
        socket.messages.empty() && !socket.closed) {
      socket.closed = true;
      socket.Shutdown(kernel_abi::kVsockShutdownReceive | kernel_abi::kVsockShutdownSend);
    }
  }

  void Told(const char* what) {
    Tell(what);
    waited_for_ = nullptr;
  }

  bool ReadCommands() {
    char text[256];
    const ssize_t count = read(0, text, sizeof(text));
    if (count <= 0) return false;
    input_.append(text, static_cast<size_t>(count));
    for (size_t end; (end = input_.find('\n')) != std::string::npos; input_.erase(0, end + 1)) {
      const std::vector<std::string> words = absl::StrSplit(input_.substr(0, end), ' ');
      uint32_t port = 0;
      if (words.size() < 2 || words[0] != "connect" || !absl::SimpleAtoi(words[1], &port)) {
        Tell("what?");
        continue;
      }
      waited_for_ = guest_.Connect(
          port, words.size() > 2 ? kernel_abi::kVsockTypeSeqpacket : kernel_abi::kVsockTypeStream);
      Kick();
      while (waited_for_ != nullptr) {
        poll(nullptr, 0, 1);
        guest_.Receive();
        if (waited_for_->reset) {
          Told("refused");
        } else if (waited_for_->established) {
          Told("established");
        }
        Kick();
      }
    }
    return true;
  }

  fakes::GuestRam ram_{uint64_t{16} << 20};
  fakes::VsockDriver driver_{ram_, {.cid = kCid}};
  fakes::VsockGuest guest_{driver_, [this] {
                             Kick();
                             poll(nullptr, 0, 1);
                           }};
  std::vector<EventFd> kicks_, calls_;
  std::string input_;
  Socket* waited_for_ = nullptr;
};

}  // namespace
}  // namespace vhost::inprocess

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: vsock_echo_guest UDS_PATH\n");
    return 2;
  }
  return vhost::inprocess::EchoGuest().Run(argv[1]);
}
