// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A complete device in a process of its own: an entropy source (virtio 1.3, 5.4) for any vhost-user
// front end. docs/writing-a-backend.md goes through it.
//
//   rng-backend /run/rng.sock
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/epoll_loop.h"
#include "vhost/inprocess/chain_backend.h"
#include "vhost/user/server.h"

// guide: answer
// Fills one buffer of the driver's. A guest chooses how long it is, and how many pieces it has:
// what one answer costs is bounded here, and the driver is told how much it got.
void Answer(int /*queue*/, vhost::inprocess::Chain& chain) {
  constexpr size_t kMostBytes = 64 * 1024;
  size_t written = 0;
  for (const iovec& piece : chain.writable()) {
    const size_t wanted = std::min(piece.iov_len, kMostBytes - written);
    const ssize_t got = getrandom(piece.iov_base, wanted, 0);
    if (got > 0) written += static_cast<size_t>(got);
    if (got != static_cast<ssize_t>(wanted) || written == kMostBytes) break;
  }
  chain.Return(static_cast<uint32_t>(written));
}
// guide: end

// guide: device
// What a front end has to know of the device: its type, its queues, what a driver may ack. An
// entropy source has one queue, no configuration space and no features of its own.
class RngDevice final : public vhost::user::ServedDevice {
 public:
  explicit RngDevice(std::unique_ptr<vhost::Backend> backend) : backend_(std::move(backend)) {}

  vhost::DeviceId id() const override { return vhost::DeviceId::kRng; }
  vhost::Backend& backend() override { return *backend_; }
  int queue_count() const override { return 1; }
  vhost::VirtioFeatures features() const override {
    using enum vhost::VirtioFeature;
    return backend_->Supported({kVersion1, kIndirectDesc, kEventIdx});
  }

 private:
  const std::unique_ptr<vhost::Backend> backend_;
};
// guide: end

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "rng-backend: %s\n", std::string(status.message()).c_str());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "Usage: rng-backend SOCKET\n");
    return 2;
  }
  // Before the first thread, so that SIGTERM comes to this one alone.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  const kernel_abi::UniqueFd stop(signalfd(-1, &signals, SFD_CLOEXEC));

  // guide: assembly
  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  auto backend = vhost::inprocess::ChainBackend::Create(kernel, {.queues = 1, .answer = &Answer});
  if (!backend.ok()) return Fail(backend.status());
  RngDevice device(*std::move(backend));
  auto loop = vhost::EpollLoop::Create();
  if (!loop.ok()) return Fail(loop.status());
  vhost::user::ServerOptions options;
  options.path = argv[1];
  options.on_disconnect = [](const absl::Status& why, bool) {
    if (!why.ok()) Fail(why);
  };
  auto server = vhost::user::Server::Create(kernel, **loop, device, std::move(options));
  if (!server.ok()) return Fail(server.status());
  // guide: end

  pollfd wait{.fd = stop.get(), .events = POLLIN, .revents = 0};
  while (poll(&wait, 1, -1) < 0) {
  }
  return 0;
}
