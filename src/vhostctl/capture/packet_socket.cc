// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Interfaces of the host, by packet sockets.
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/packet_socket.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/virtio.h"
#include "src/vhostctl/capture/source.h"
#include "src/vhostctl/proc_files.h"
#include "vhost/host/link.h"

namespace vhost::ctl {
namespace {

using kernel_abi::BpfInstruction;
using kernel_abi::UniqueFd;

constexpr uint32_t kMostFrameBytes = 256 << 10;
constexpr int kBurst = 256;  // frames that are read before others have their turn
constexpr int kBufferBytes = 32 << 20;
constexpr uint32_t kAccept = 0x7fffffff;
constexpr uint16_t kVlanTag = 0x8100;
constexpr size_t kVlanTagAt = 2 * ETH_ALEN;

absl::Status Failure(const std::string& subject, const char* call, absl::string_view advice = {}) {
  if (errno == EPERM && advice.empty()) advice = "it needs root, or CAP_NET_RAW";
  return kernel_abi::MakeSystemError({.error = errno, .subject = subject, .call = call}, advice);
}

// ---- Filters -----------------------------------------------------------------------------------

std::vector<BpfInstruction> LoadAndRequire(uint32_t place, uint32_t value, uint8_t drop_ahead) {
  return {{kernel_abi::kBpfLoadWord, 0, 0, place},
          {kernel_abi::kBpfJumpIfEqual, 0, drop_ahead, value}};
}

void Append(std::vector<BpfInstruction>* program, const std::vector<BpfInstruction>& more) {
  program->insert(program->end(), more.begin(), more.end());
}

void AppendEnd(std::vector<BpfInstruction>* program) {
  Append(program, {{kernel_abi::kBpfReturn, 0, 0, kAccept}, {kernel_abi::kBpfReturn, 0, 0, 0}});
}

// A TAP's queue numbers: a frame for the guest has the number of the queue that it waits in, a
// frame of the guest that of the queue that it came by, and 1 more ("recorded").
std::vector<BpfInstruction> OnlyQueue(uint32_t virtqueue) {
  const uint32_t pair = virtqueue / 2;
  const bool to_guest = virtqueue % 2 == 0;
  std::vector<BpfInstruction> program = {
      {kernel_abi::kBpfLoadWord, 0, 0, kernel_abi::kBpfPacketType}};
  if (to_guest) {
    program.push_back({kernel_abi::kBpfJumpIfEqual, 0, 3, kernel_abi::kPacketOutgoing});
  } else {
    program.push_back({kernel_abi::kBpfJumpIfEqual, 3, 0, kernel_abi::kPacketOutgoing});
  }
  Append(&program, LoadAndRequire(kernel_abi::kBpfQueueMapping, to_guest ? pair : pair + 1, 1));
  AppendEnd(&program);
  return program;
}

// vsockmon's words are little-endian, the filter's are not. CIDs have 32 bits.
std::vector<BpfInstruction> OnlyCid(uint64_t cid, std::optional<uint32_t> virtqueue) {
  const uint32_t word = __builtin_bswap32(static_cast<uint32_t>(cid));
  constexpr uint32_t kSource = offsetof(kernel_abi::VsockmonHdr, src_cid);
  constexpr uint32_t kDestination = offsetof(kernel_abi::VsockmonHdr, dst_cid);
  std::vector<BpfInstruction> program;
  if (virtqueue.has_value()) {
    program = LoadAndRequire(*virtqueue == 0 ? kDestination : kSource, word, 1);
  } else {
    program = {{kernel_abi::kBpfLoadWord, 0, 0, kSource},
               {kernel_abi::kBpfJumpIfEqual, 2, 0, word}};
    Append(&program, LoadAndRequire(kDestination, word, 1));
  }
  AppendEnd(&program);
  return program;
}

// ---- Opening -----------------------------------------------------------------------------------

// Only what concerns `interface` and passes `filter` is ever in its buffer.
absl::StatusOr<UniqueFd> OpenSocket(const std::string& interface,
                                    const std::vector<BpfInstruction>& filter) {
  // No protocol: it takes nothing before it is bound.
  UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Failure(interface, "socket(AF_PACKET)");
  const unsigned index = if_nametoindex(interface.c_str());
  if (index == 0) return Failure(interface, "if_nametoindex");
  // More than net.core.rmem_max is for those with CAP_NET_ADMIN.
  if (setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kBufferBytes, sizeof(kBufferBytes)) != 0) {
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &kBufferBytes, sizeof(kBufferBytes));
  }
  constexpr int kOn = 1;
  if (setsockopt(fd.get(), SOL_SOCKET, SO_TIMESTAMPNS, &kOn, sizeof(kOn)) != 0) {
    return Failure(interface, "SO_TIMESTAMPNS");
  }
  if (setsockopt(fd.get(), SOL_PACKET, kernel_abi::kPacketAuxdata, &kOn, sizeof(kOn)) != 0) {
    return Failure(interface, "PACKET_AUXDATA");
  }
  if (!filter.empty()) {
    const kernel_abi::BpfProgram program = {static_cast<uint16_t>(filter.size()), filter.data()};
    if (setsockopt(fd.get(), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0) {
      return Failure(interface, "SO_ATTACH_FILTER");
    }
  }
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(index);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Failure(interface, "bind");
  }
  return fd;
}

// Does `work` on a thread of its own, so that the namespace that it enters is nobody else's. A
// socket that is opened there stays there.
absl::Status Elsewhere(const std::function<absl::Status()>& work) {
  absl::Status status;
  std::thread([&] { status = work(); }).join();
  return status;
}

absl::Status EnterNetworkOf(pid_t pid) {
  const std::string path = absl::StrCat("/proc/", pid, "/ns/net");
  if (ReadLink(path) == ReadLink("/proc/self/ns/net")) return absl::OkStatus();
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return Failure(path, "open", "it takes root to see another's TAPs");
  if (setns(fd.get(), CLONE_NEWNET) != 0) {
    return Failure(path, "setns", "it takes root to enter another network namespace");
  }
  return absl::OkStatus();
}

absl::Status MakeVsockmon(const std::string& name) {
  if (unshare(CLONE_NEWNET) != 0) {
    return Failure("vsockmon", "unshare(CLONE_NEWNET)", "capturing the kernel's vsock takes root");
  }
  absl::StatusOr<Links> links = Links::Open();
  if (!links.ok()) return links.status();
  if (absl::Status status = links->Add(name, kernel_abi::kVsockmonLinkType); !status.ok()) {
    const int error = kernel_abi::GetErrno(status);
    return error == EOPNOTSUPP
               ? kernel_abi::AddAdvice(status, "the kernel has no vsockmon: modprobe vsockmon")
               : status;
  }
  return links->SetUp(name, true);
}

// ---- Reading -----------------------------------------------------------------------------------

class PacketSocket final : public CaptureSource {
 public:
  PacketSocket(UniqueFd fd, PcapngInterface interface, std::optional<uint64_t> guest_cid)
      : fd_(std::move(fd)),
        interface_(std::move(interface)),
        guest_cid_(guest_cid),
        buffer_(kMostFrameBytes, '\0') {}

  PcapngInterface Describe() const override { return interface_; }
  int fd() const override { return fd_.get(); }

  absl::Status Read(std::vector<PcapngPacket>* packets) override {
    for (int i = 0; i < kBurst; ++i) {
      absl::StatusOr<std::optional<PcapngPacket>> packet = ReadOne();
      if (!packet.ok()) return packet.status();
      if (!packet->has_value()) break;
      packets->push_back(**std::move(packet));
    }
    return absl::OkStatus();
  }

  uint64_t Dropped() override {
    kernel_abi::PacketStatistics since{};
    socklen_t length = sizeof(since);
    if (getsockopt(fd_.get(), SOL_PACKET, kernel_abi::kPacketStatistics, &since, &length) == 0) {
      dropped_ += since.drops;
    }
    return dropped_;
  }

 private:
  // nullopt: none has come.
  absl::StatusOr<std::optional<PcapngPacket>> ReadOne() {
    alignas(cmsghdr) std::array<char, 256> control;
    sockaddr_ll from{};
    iovec into = {buffer_.data(), buffer_.size()};
    msghdr message{};
    message.msg_name = &from;
    message.msg_namelen = sizeof(from);
    message.msg_iov = &into;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t count = recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_TRUNC);
    if (count < 0) {
      if (errno == EAGAIN || errno == EINTR) return std::nullopt;
      return Failure(interface_.name, "recvmsg",
                     errno == ENETDOWN ? "the interface went down, or away" : "");
    }
    PcapngPacket packet = {.length = static_cast<uint32_t>(count)};
    packet.bytes.assign(buffer_, 0, static_cast<size_t>(count));
    packet.to_guest = guest_cid_.has_value() ? IsToGuest(packet.bytes)
                                             : from.sll_pkttype == kernel_abi::kPacketOutgoing;
    for (cmsghdr* row = CMSG_FIRSTHDR(&message); row != nullptr; row = CMSG_NXTHDR(&message, row)) {
      if (row->cmsg_level == SOL_SOCKET && row->cmsg_type == SO_TIMESTAMPNS) {
        timespec time;
        memcpy(&time, CMSG_DATA(row), sizeof(time));
        packet.time_ns = time.tv_sec * int64_t{1'000'000'000} + time.tv_nsec;
      } else if (row->cmsg_level == SOL_PACKET && row->cmsg_type == kernel_abi::kPacketAuxdata) {
        kernel_abi::PacketAuxdata auxdata;
        memcpy(&auxdata, CMSG_DATA(row), sizeof(auxdata));
        PutVlanTagBack(auxdata, &packet);
      }
    }
    if (interface_.snaplen != 0 && packet.bytes.size() > interface_.snaplen) {
      packet.bytes.resize(interface_.snaplen);
    }
    if (guest_cid_.has_value()) packet.queue = packet.to_guest ? 0 : 1;
    return packet;
  }

  bool IsToGuest(const std::string& frame) const {
    kernel_abi::VsockmonHdr header;
    if (frame.size() < sizeof(header)) return false;
    memcpy(&header, frame.data(), sizeof(header));
    return *guest_cid_ == 0 ? header.src_cid == kernel_abi::kVsockHostCid
                            : header.dst_cid == *guest_cid_;
  }

  // The kernel takes the outermost tag out of the frame before it shows it.
  static void PutVlanTagBack(const kernel_abi::PacketAuxdata& auxdata, PcapngPacket* packet) {
    if ((auxdata.status & kernel_abi::kPacketStatusVlanValid) == 0 ||
        packet->bytes.size() < kVlanTagAt) {
      return;
    }
    const bool has_tpid = (auxdata.status & kernel_abi::kPacketStatusVlanTpidValid) != 0;
    const uint16_t tag[] = {htons(has_tpid ? auxdata.vlan_tpid : kVlanTag),
                            htons(auxdata.vlan_tci)};
    packet->bytes.insert(kVlanTagAt, reinterpret_cast<const char*>(tag), sizeof(tag));
    packet->length += sizeof(tag);
  }

  const UniqueFd fd_;
  const PcapngInterface interface_;
  const std::optional<uint64_t> guest_cid_;  // of vsockmon; 0: any
  std::string buffer_;
  uint64_t dropped_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureTap(const std::string& tap, pid_t pid,
                                                          const CaptureWanted& wanted) {
  absl::StatusOr<UniqueFd> fd = absl::UnknownError("not opened");
  absl::Status status = Elsewhere([&] {
    if (absl::Status entered = EnterNetworkOf(pid); !entered.ok()) return entered;
    fd = OpenSocket(
        tap, wanted.queue.has_value() ? OnlyQueue(*wanted.queue) : std::vector<BpfInstruction>{});
    return fd.status();
  });
  if (!status.ok()) {
    return kernel_abi::GetErrno(status) == ENODEV
               ? kernel_abi::AddAdvice(
                     status, absl::StrCat("not in the network namespace of process ", pid))
               : status;
  }
  return std::make_unique<PacketSocket>(
      *std::move(fd),
      PcapngInterface{.name = tap,
                      .description = absl::StrCat("TAP of process ", pid),
                      .link_type = kLinkTypeEthernet,
                      .snaplen = wanted.snaplen},
      std::nullopt);
}

absl::StatusOr<std::unique_ptr<CaptureSource>> CaptureKernelVsock(std::optional<uint64_t> guest_cid,
                                                                  const CaptureWanted& wanted) {
  static constexpr char kName[] = "vsockmon0";
  absl::StatusOr<UniqueFd> fd = absl::UnknownError("not opened");
  // The interface shows the whole host's traffic wherever it is. Nothing but our socket holds that
  // namespace, so both go when the socket is closed, and be it because we were killed.
  absl::Status status = Elsewhere([&] {
    if (absl::Status made = MakeVsockmon(kName); !made.ok()) return made;
    fd = OpenSocket(kName, guest_cid.has_value() ? OnlyCid(*guest_cid, wanted.queue)
                                                 : std::vector<BpfInstruction>{});
    return fd.status();
  });
  if (!status.ok()) return status;
  return std::make_unique<PacketSocket>(
      *std::move(fd),
      PcapngInterface{
          .name = "vhost-vsock",
          .description = guest_cid.has_value()
                             ? absl::StrCat("the kernel's vsock, guest CID ", *guest_cid)
                             : "the kernel's vsock, all guests",
          .link_type = kLinkTypeVsock,
          .snaplen = wanted.snaplen},
      guest_cid.value_or(0));
}

}  // namespace vhost::ctl
