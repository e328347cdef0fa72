// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// vhost-backend: serves a virtio device to a vhost-user front end, outside the VMM. options.cc has
// its manual.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "src/vhost-backend/options.h"
#include "src/vhost-backend/sandbox.h"
#include "vhost/epoll_loop.h"
#include "vhost/host/tap_open.h"
#include "vhost/host/unix_socket.h"
#include "vhost/user/served_net.h"
#include "vhost/user/served_vsock.h"
#include "vhost/user/server.h"

namespace vhost_backend {
namespace {

using kernel_abi::EventFd;
using kernel_abi::UniqueFd;
using vhost::user::ServedDevice;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

void Say(const std::string& text) { std::fprintf(stderr, "vhost-backend: %s\n", text.c_str()); }

void Complain(const absl::Status& status) { Say(std::string(status.message())); }

// Readable once the process is asked to end. Must come before the first thread.
absl::StatusOr<UniqueFd> StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const int fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd >= 0) return UniqueFd(fd);
  return kernel_abi::MakeSystemError({.error = errno, .subject = "signals", .call = "signalfd"});
}

absl::StatusOr<UniqueFd> TakeFd(int fd) {
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return UniqueFd(fd);
  return kernel_abi::MakeSystemError(
      {.error = errno, .subject = "fd " + std::to_string(fd), .call = "fcntl"});
}

// What may take privileges: opened before they are given up.
struct Opened {
  std::optional<vhost::UnixListener> listener;  // removes its path in the end
  UniqueFd socket;
  std::vector<UniqueFd> taps;
};

absl::StatusOr<Opened> Open(const Options& options) {
  Opened opened;
  if (options.fd.has_value()) {
    absl::StatusOr<UniqueFd> socket = TakeFd(*options.fd);
    if (!socket.ok()) return socket.status();
    opened.socket = *std::move(socket);
  }
  for (const int fd : options.tap_fds) {
    absl::StatusOr<UniqueFd> tap = TakeFd(fd);
    if (!tap.ok()) return tap.status();
    opened.taps.push_back(*std::move(tap));
  }
  if (!options.tap.empty()) {
    absl::StatusOr<vhost::OpenTap> tap =
        vhost::OpenTapByName(kernel_abi::LinuxKernel(), options.tap, options.queues);
    if (!tap.ok()) return tap.status();
    opened.taps = std::move(tap->queues);
  }
  if (options.socket.empty()) return opened;
  absl::StatusOr<vhost::UnixListener> listener = vhost::UnixListener::Create(
      options.socket,
      {.mode = options.group.has_value() ? 0660U : 0600U, .group = options.group, .backlog = 4});
  if (!listener.ok()) return listener.status();
  opened.socket.Reset(kernel_abi::LinuxKernel().Duplicate(listener->fd()));
  opened.listener.emplace(*std::move(listener));
  return opened;
}

absl::StatusOr<std::unique_ptr<ServedDevice>> MakeDevice(const Options& options, Opened& opened) {
  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  using enum vhost::VirtioFeature;
  vhost::VirtioFeatures withheld;
  withheld.Set(kRingPacked, !options.packed);
  if (options.type == DeviceType::kVsock) {
    vhost::user::ServedVsockOptions vsock{.withheld = withheld};
    vsock.backend.guest_cid = options.guest_cid;
    vsock.backend.host.uds_path = options.uds;
    vsock.backend.thread_options.busy_poll_us = options.poll_us;
    return vhost::user::ServedVsock::Create(kernel, std::move(vsock));
  }
  vhost::user::ServedNetOptions net{.withheld = withheld};
  net.tap.fds = std::move(opened.taps);
  net.backend.thread_options.busy_poll_us = options.poll_us;
  return vhost::user::ServedNet::Create(kernel, std::move(net));
}

absl::Status Run(const Options& options) {
  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  absl::StatusOr<UniqueFd> stop = StopSignals();
  if (!stop.ok()) return stop.status();
  signal(SIGPIPE, SIG_IGN);
  absl::StatusOr<Opened> opened = Open(options);
  if (!opened.ok()) return opened.status();
  if (options.sandbox) {
    const bool is_vsock = options.type == DeviceType::kVsock;
    absl::Status status = EnterSandbox(is_vsock ? Keep::kFileAccess : Keep::kNothing);
    if (!status.ok()) return status;
  }
  absl::StatusOr<std::unique_ptr<ServedDevice>> device = MakeDevice(options, *opened);
  if (!device.ok()) return device.status();
  absl::StatusOr<EventFd> done = EventFd::Create(kernel);
  if (!done.ok()) return done.status();
  absl::StatusOr<std::unique_ptr<vhost::EpollLoop>> loop = vhost::EpollLoop::Create("vhost-user");
  if (!loop.ok()) return loop.status();

  vhost::user::ServerOptions server_options;
  server_options.socket = std::move(opened->socket);
  server_options.on_connect = [&options] {
    if (options.verbose) Say("a front end has connected");
  };
  server_options.on_disconnect = [&options, &done](const absl::Status& why, bool is_last) {
    if (!why.ok()) Complain(why);
    if (options.verbose) Say(why.ok() ? "the front end has gone" : "the front end was dropped");
    if (is_last) done->Signal();
  };
  absl::StatusOr<std::unique_ptr<vhost::user::Server>> server =
      vhost::user::Server::Create(kernel, **loop, **device, std::move(server_options));
  if (!server.ok()) return server.status();

  pollfd waits[] = {{.fd = stop->get(), .events = POLLIN, .revents = 0},
                    {.fd = done->get(), .events = POLLIN, .revents = 0}};
  while (poll(waits, std::size(waits), -1) < 0 && errno == EINTR) {
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace vhost_backend

int main(int argc, char** argv) {
  using namespace vhost_backend;  // NOLINT: main is of it
  const absl::StatusOr<std::variant<Options, Text>> parsed =
      ParseOptions(std::span<const char* const>(argv, static_cast<size_t>(argc)).subspan(1));
  if (!parsed.ok()) {
    Complain(parsed.status());
    return kExitUsage;
  }
  if (const auto* text = std::get_if<Text>(&*parsed); text != nullptr) {
    std::fputs(text->text.c_str(), stdout);
    return 0;
  }
  const absl::Status status = Run(std::get<Options>(*parsed));
  if (status.ok()) return 0;
  Complain(status);
  return kExitFailure;
}
