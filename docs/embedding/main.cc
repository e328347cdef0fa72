// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A VMM that has memory, an event loop and a transport of its own, and takes from libvhost only
// what serves the vrings. There is no guest: this process plays the driver of a socket device, asks
// the host for a connection to a port where nobody listens, and reads the kernel's answer, a reset.
//
// Exit code 0: the answer came. 1: something else failed. 3: this machine has no vhost-vsock for
// us.
#include <poll.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>

#include "kernel-abi/system_error.h"
#include "vhost/device/virtio_device.h"
#include "vhost/device/vsock_device.h"
#include "vhost/guest_memory.h"
#include "vhost/kernel/vsock_backend.h"

using vhost::GuestAddress;

// An event loop on poll(2). This VMM has one thread, so a watch that ends is not running elsewhere.
class PollLoop final : public vhost::EventLoop {
 public:
  absl::StatusOr<std::unique_ptr<vhost::Watch>> WatchReadable(
      int fd, std::function<void()> ready) override {
    watched_[++last_] = {fd, std::move(ready)};
    return std::make_unique<PollWatch>(*this, last_);
  }
  // Serves the watches until `fd` is readable. False after `timeout_ms` without any event.
  bool RunUntilReadable(int fd, int timeout_ms) {
    while (true) {
      std::vector<pollfd> fds = {{fd, POLLIN, 0}};
      std::vector<int> ids = {0};
      for (const auto& [id, watched] : watched_) {
        fds.push_back({watched.first, POLLIN, 0});
        ids.push_back(id);
      }
      if (poll(fds.data(), fds.size(), timeout_ms) <= 0) return false;
      if (fds[0].revents != 0) return true;
      for (size_t i = 1; i < fds.size(); ++i) {
        const auto found = watched_.find(ids[i]);
        if (fds[i].revents == 0 || found == watched_.end()) continue;
        const auto ready = found->second.second;  // A copy: it may end its own watch.
        ready();
      }
    }
  }

 private:
  struct PollWatch final : vhost::Watch {
    PollWatch(PollLoop& in, int number) : loop(in), id(number) {}
    ~PollWatch() override { loop.watched_.erase(id); }
    PollLoop& loop;
    int id;
  };
  std::map<int, std::pair<int, std::function<void()>>> watched_;  // by number: fd, callback
  int last_ = 0;
};

// One split virtqueue with one buffer in it, written as a driver does (virtio 1.3, 2.7).
struct Queue {
  static constexpr uint16_t kSize = 4;
  Queue(std::byte* ram, uint64_t at) : ram_(ram), at_(at) {}
  vhost::VringSetup setup() const {
    return {kSize, GuestAddress{at_}, GuestAddress{at_ + 0x100}, GuestAddress{at_ + 0x200}};
  }
  std::byte* buffer() const { return ram_ + at_ + 0x1000; }
  void Offer(uint32_t bytes, bool device_writes) {
    const uint64_t desc[] = {at_ + 0x1000, bytes | uint64_t{device_writes ? 2u : 0u} << 32};
    memcpy(ram_ + at_, desc, sizeof(desc));  // address; length, flags, next
    Word(0x104) = 0;                         // the first available entry: descriptor 0
    std::atomic_ref(Word(0x102)).store(1, std::memory_order_release);
  }
  uint16_t used() { return std::atomic_ref(Word(0x202)).load(std::memory_order_acquire); }
  uint16_t& Word(uint64_t at) { return *reinterpret_cast<uint16_t*>(ram_ + at_ + at); }
  std::byte* ram_;
  uint64_t at_;
};

struct VsockHeader {  // virtio 1.3, 5.10.6
  uint64_t src_cid, dst_cid;
  uint32_t src_port, dst_port, len;
  uint16_t type, op;
  uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

absl::Status Run() {
  constexpr size_t kRamBytes = 1 << 20;
  const int memfd = memfd_create("guest-ram", MFD_CLOEXEC);
  if (memfd < 0 || ftruncate(memfd, kRamBytes) != 0) return absl::ErrnoToStatus(errno, "memfd");
  void* map = mmap(nullptr, kRamBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
  if (map == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap");
  auto* ram = static_cast<std::byte*>(map);
  vhost::GuestMemory memory;
  absl::Status status = memory.Add({GuestAddress{0}, kRamBytes, ram, memfd, 0});
  if (!status.ok()) return status;

  PollLoop loop;
  kernel_abi::Kernel& kernel = kernel_abi::LinuxKernel();
  auto backend = vhost::VsockBackend::Create(kernel, {});  // a free CID
  if (!backend.ok()) return backend.status();
  const uint64_t cid = (*backend)->guest_cid();
  auto model = vhost::VsockDevice::Create({.guest_cid = cid});
  if (!model.ok()) return model.status();
  std::vector<vhost::BackendCandidate> candidates;
  candidates.push_back({vhost::BackendKind::kKernel, *std::move(backend)});
  auto backends =
      vhost::BackendSelector::Create(vhost::OffloadPolicy::kRequire, std::move(candidates));
  if (!backends.ok()) return backends.status();
  auto device = vhost::VirtioDevice::Create(
      {"vsock0", &kernel, &memory, &loop, *std::move(model), *std::move(backends)});
  if (!device.ok()) return device.status();

  // What a transport would have learnt from a driver, handed over at once.
  Queue rx(ram, 0x10000), tx(ram, 0x20000);
  rx.Offer(0x1000, true);
  status = (*device)->Activate(
      {.acked = {vhost::VirtioFeature::kVersion1}, .queues = {{0, rx.setup()}, {1, tx.setup()}}});
  if (!status.ok()) return status;
  const VsockHeader connect = {cid, 2, 1024, 0x7fffffff, 0, 1, /*REQUEST*/ 1, 0, 4096, 0};
  memcpy(tx.buffer(), &connect, sizeof(connect));
  tx.Offer(sizeof(connect), false);
  (*device)->Notify(1);
  while (rx.used() == 0) {
    if (!loop.RunUntilReadable((*device)->call_fd(0), 5000))
      return absl::DeadlineExceededError("no answer");
    kernel_abi::EventFd::DrainEventFd(kernel, (*device)->call_fd(0));
  }
  VsockHeader answer;
  memcpy(&answer, rx.buffer(), sizeof(answer));
  printf("cid %ld: the host answered with op %d (3: RST)\n", static_cast<long>(cid), answer.op);
  for (const vhost::StoppedVring& vring : (*device)->Deactivate()) {
    printf("queue %d stopped at %u\n", vring.queue, vring.base);
  }
  return answer.op == 3 ? absl::OkStatus() : absl::InternalError("no RST");
}

int main() {
  const absl::Status status = Run();
  if (status.ok()) return 0;
  fprintf(stderr, "tiny_vmm: %s\n", std::string(status.message()).c_str());
  const int error = kernel_abi::GetErrno(status);
  return error == ENOENT || error == EACCES || error == ENODEV || error == ENXIO ? 3 : 1;
}
