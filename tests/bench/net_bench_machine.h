// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For bench_inprocess_net and bench_net_peers: a TAP in a namespace of the bench's own, and a
// driver whose work is too little to be seen: its frames lie in the ring from the start, and it
// only moves indices.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <netpacket/packet.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "kernel-abi/virtio.h"
#include "tests/fakes/guest_ram.h"
#include "vhost/backend.h"
#include "vhost/host/link.h"
#include "vhost/host/tap.h"
#include "vhost/inprocess/net_frames_fixture.h"

namespace vhost::bench {

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "bench: %s\n", value.status().ToString().c_str());
  std::exit(2);
}
inline void OrDie(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench: %s\n", status.ToString().c_str());
  std::exit(2);
}

// Goes to a network namespace of our own, in which interfaces say nothing by themselves.
inline void BePrivate() {
  if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    std::fprintf(stderr, "bench: no network namespace of our own (unshare)\n");
    std::exit(2);
  }
  if (std::FILE* file = std::fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w");
      file != nullptr) {
    std::fputs("1", file);
    std::fclose(file);
  }
}

inline constexpr size_t kHeader = sizeof(kernel_abi::VirtioNetHdr);

// A TAP, up, with a socket that sends into it from the host's side (with virtio's header).
struct HostTap {
  explicit HostTap(kernel_abi::Kernel& kernel, const std::string& name, unsigned offloads = 0)
      : tap(OrDie(Tap::Create(kernel, {.name = name}))),
        socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)) {
    Links links = OrDie(Links::Open());
    OrDie(links.SetUp(name, true));
    OrDie(tap->SetOffloads(offloads & tap->supported_offloads()));
    ::fcntl(fd(), F_SETFL, O_RDWR | O_NONBLOCK);
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = OrDie(links.Get(name)).index;
    const int one = 1;
    if (::setsockopt(socket.get(), SOL_PACKET, /*PACKET_VNET_HDR*/ 15, &one, sizeof(one)) != 0 ||
        ::setsockopt(socket.get(), SOL_PACKET, /*PACKET_QDISC_BYPASS*/ 20, &one, sizeof(one)) !=
            0 ||
        ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      std::perror("bench: packet socket");
      std::exit(2);
    }
    const int room = 64 << 20;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
    Drain();
  }
  int fd() const { return tap->fd(0); }
  // What the stack has sent by itself.
  void Drain() const {
    std::vector<std::byte> bytes(1 << 17);
    while (::read(fd(), bytes.data(), bytes.size()) > 0) continue;
  }
  void Send(std::span<const std::byte> frame_with_header) const {
    // The socket's header is the one of 10 bytes.
    const auto* bytes = const_cast<std::byte*>(frame_with_header.data());
    iovec pieces[] = {
        {const_cast<std::byte*>(bytes), 10},
        {const_cast<std::byte*>(bytes) + kHeader, frame_with_header.size() - kHeader}};
    if (::writev(socket.get(), pieces, 2) < 0) std::perror("bench: send");
  }

  std::unique_ptr<Tap> tap;
  kernel_abi::UniqueFd socket;
};

// Frames with virtio's header in front, to an address that is not the host's: the stack drops them
// as early as it can.
inline std::vector<std::byte> WithHeader(const inprocess::FrameSpec& spec, uint16_t gso_size = 0) {
  inprocess::FrameSpec foreign = spec;
  foreign.mac = 0x66;
  kernel_abi::VirtioNetHdr header = inprocess::HeaderOf(foreign);
  if (gso_size != 0) {
    header.gso_type = kernel_abi::kNetHdrGsoTcpV4;
    header.gso_size = gso_size;
    header.hdr_len = inprocess::ShapeOf(foreign).payload;
  }
  const inprocess::Bytes frame = inprocess::BuildFrame(foreign);
  std::vector<std::byte> bytes(kHeader + frame.size());
  std::memcpy(bytes.data(), &header, kHeader);
  std::memcpy(bytes.data() + kHeader, frame.data(), frame.size());
  return bytes;
}

// A split ring of `size` chains, one descriptor each, that are made available in ring order over
// and over.
class BenchRing {
 public:
  BenchRing(fakes::GuestRam& ram, uint16_t size, uint32_t buffer_bytes, bool writable)
      : ram_(ram), size_(size) {
    const VringBytes bytes = BytesOf(VringLayout::kSplit, size);
    setup_ = {.size = size,
              .desc = ram.Allocate(bytes.desc, 16),
              .driver = ram.Allocate(bytes.driver, 4),
              .device = ram.Allocate(bytes.device, 4)};
    std::memset(ram.Host(setup_.desc), 0, bytes.desc);
    std::memset(ram.Host(setup_.driver), 0, bytes.driver);
    std::memset(ram.Host(setup_.device), 0, bytes.device);
    for (uint16_t i = 0; i < size; ++i) {
      buffers_.push_back(ram.Allocate(buffer_bytes, 64));
      std::memset(ram.Host(buffers_.back()), 0, buffer_bytes);
      PutDesc(i, buffer_bytes, writable);
      Word(setup_.driver + 4 + 2 * uint64_t{i}).store(i);
    }
    // No interrupts: their cost is not what is measured.
    Word(setup_.driver).store(1);
  }
  void Fill(uint16_t index, std::span<const std::byte> bytes) {
    ram_.Put(buffers_[index], bytes);
    PutDesc(index, static_cast<uint32_t>(bytes.size()), false);
  }
  void FillAll(std::span<const std::byte> bytes) {
    for (uint16_t i = 0; i < size_; ++i) Fill(i, bytes);
  }
  void Publish(uint16_t count) {
    avail_ = static_cast<uint16_t>(avail_ + count);
    Word(setup_.driver + 2).store(avail_, std::memory_order_release);
  }
  uint16_t used() const { return Word(setup_.device + 2).load(std::memory_order_acquire); }
  bool all_used() const { return used() == avail_; }
  bool kick_wanted() const {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return (Word(setup_.device).load(std::memory_order_relaxed) & 1) == 0;
  }
  // With EVENT_IDX: a call when `index` is used, which is the used index before it moves past; and
  // whether the last `count` chains want a kick. Both as a driver asks.
  void CallWhenUsed(uint16_t index) const {
    Word(setup_.driver + 4 + 2 * uint64_t{size_}).store(index);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  bool kick_wanted_for(uint16_t count) const {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint16_t event = Word(setup_.device + 4 + 8 * uint64_t{size_}).load();
    return static_cast<uint16_t>(avail_ - event - 1) < count;
  }
  uint16_t available() const { return avail_; }
  uint16_t size() const { return size_; }
  Vring vring(const MemoryTable& memory) const {
    return OrDie(Vring::Create(setup_, VringLayout::kSplit, memory));
  }

 private:
  std::atomic_ref<uint16_t> Word(GuestAddress address) const {
    return std::atomic_ref<uint16_t>(*reinterpret_cast<uint16_t*>(ram_.Host(address)));
  }
  void PutDesc(uint16_t index, uint32_t bytes, bool writable) {
    const kernel_abi::VirtqDesc desc{Value(buffers_[index]), bytes,
                                     static_cast<uint16_t>(writable ? kernel_abi::kDescFWrite : 0),
                                     0};
    std::memcpy(ram_.Host(setup_.desc) + sizeof(desc) * index, &desc, sizeof(desc));
  }

  fakes::GuestRam& ram_;
  uint16_t size_;
  VringSetup setup_;
  std::vector<GuestAddress> buffers_;
  uint16_t avail_ = 0;
};

}  // namespace vhost::bench
