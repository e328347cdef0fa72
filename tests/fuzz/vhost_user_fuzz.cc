// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a front end may send to a vhost-user server: arbitrary bytes with arbitrary fds over a real
// socket, and kicks in between. An input is a list of actions, read to its end; every byte string
// is one. The server may refuse and drop what it likes, but must come to rest after each action,
// serve the next front end, and keep no fd.
//
//   0  a raw piece: length, number of fds, which, bytes
//   1  a well-formed message: request, flags, number of fds, which, payload by its usual shape
//   2  a kick
//   3  the driver makes a chain available
//   4  the front end goes, and another comes
#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/fakes/driver_ring.h"
#include "tests/fakes/manual_loop.h"
#include "vhost/inprocess/chain_backend.h"
#include "vhost/user/server.h"

namespace vhost::user {
namespace {

using kernel_abi::UniqueFd;

constexpr uint64_t kRamBytes = 64 << 10;
constexpr size_t kMostActions = 64;

void Require(bool holds, const char* what = "what the test needs of the system") {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  uint32_t Word() {
    uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | Byte();
    return word;
  }
  void Fill(std::span<std::byte> to) {
    for (std::byte& byte : to) byte = static_cast<std::byte>(Byte());
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

class Device final : public ServedDevice {
 public:
  Device()
      : backend_(*inprocess::ChainBackend::Create(
            kernel_abi::LinuxKernel(),
            {.queues = 2,
             .answer =
                 [](int, inprocess::Chain& chain) {
                   chain.Write(0, std::array<std::byte, 4>{}).IgnoreError();
                   chain.Return(4);
                 },
             .thread_options = {.name = "fuzz", .busy_poll_us = 0}})) {}
  DeviceId id() const override { return DeviceId::kRng; }
  Backend& backend() override { return *backend_; }
  int queue_count() const override { return 3; }
  bool is_served(int queue) const override { return queue < 2; }
  bool is_discarded_when_disabled(int queue) const override { return queue == 1; }
  VirtioFeatures features() const override {
    using enum VirtioFeature;
    return {kVersion1, kEventIdx, kIndirectDesc, kRingPacked};
  }
  std::vector<std::byte> config() const override { return std::vector<std::byte>(8); }
  bool is_net() const override { return true; }

 private:
  const std::unique_ptr<inprocess::ChainBackend> backend_;
};

// Those that are no pipes: libFuzzer talks with its symbolizer over some.
int OpenFds() {
  int count = 0;
  DIR* folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) {
    char target[64] = {};
    if (readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1) <= 0) continue;
    if (strncmp(target, "pipe:", 5) != 0) ++count;
  }
  closedir(folder);
  return count;
}

// One server for all inputs: what one of them leaves behind shows.
class World {
 public:
  World() : ring_(ram_, {.size = 8}) {
    int ends[2];
    Require(pipe2(ends, O_CLOEXEC) == 0);
    pipe_read_.Reset(ends[0]);
    pipe_write_.Reset(ends[1]);
    kick_.Reset(kernel_abi::LinuxKernel().EventFd(0, EFD_NONBLOCK));
    call_.Reset(kernel_abi::LinuxKernel().EventFd(0, EFD_NONBLOCK));
    small_.Reset(memfd_create("small", MFD_CLOEXEC));
    Require(ftruncate(small_.get(), 4096) == 0);
    zero_.Reset(open("/dev/zero", O_RDWR | O_CLOEXEC));
    listener_.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    address_.sun_family = AF_UNIX;  // in the abstract: autobind gives it a name
    Require(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address_), sizeof(sa_family_t)) ==
            0);
    address_bytes_ = sizeof(address_);
    Require(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address_), &address_bytes_) ==
            0);
    Require(listen(listener_.get(), 4) == 0);
    ServerOptions options;
    options.socket.Reset(kernel_abi::LinuxKernel().Duplicate(listener_.get()));
    server_ = *Server::Create(kernel_abi::LinuxKernel(), loop_, device_, std::move(options));
    fds_ = OpenFds();
  }

  void Run(Input input) {
    Connect();
    for (size_t i = 0; i < kMostActions && !input.empty(); ++i) Act(input);
    socket_.Reset();
    // A loop that is never quiet keeps everybody else waiting.
    Require(loop_.Pump(1000) < 1000, "the loop comes to rest when a front end has gone");
    Require(!device_.backend().Report().running, "nothing runs when a front end has gone");
    Require(OpenFds() == fds_, "no fd is left when a front end has gone");
    ring_.Forget();
  }

 private:
  void Connect() {
    socket_.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    Require(connect(socket_.get(), reinterpret_cast<sockaddr*>(&address_), address_bytes_) == 0);
    loop_.Pump();
  }

  void Act(Input& input) {
    switch (input.Byte() % 8) {
      case 0:
        SendRaw(input);
        break;
      case 2:
        kernel_abi::LinuxKernel().Write(kick_.get(), &kOne, sizeof(kOne));
        break;
      case 3:
        MakeAvailable(input);
        break;
      case 4:
        socket_.Reset();
        loop_.Pump();
        Connect();
        break;
      default:
        SendMessage(input);
    }
    Require(loop_.Pump(1000) < 1000, "the loop comes to rest after a message");
    char answers[4096];
    while (recv(socket_.get(), answers, sizeof(answers), MSG_DONTWAIT) > 0) {
    }
  }

  // Whatever it likes, anywhere in its ring: that is for the queue to withstand.
  void MakeAvailable(Input& input) {
    const GuestAddress parts[] = {ring_.setup().desc, ring_.setup().driver};
    std::array<std::byte, 16> bytes;
    const GuestAddress at = parts[input.Byte() % 2] + (input.Byte() % 4) * uint64_t{16};
    input.Fill(bytes);
    ram_.Put(at, bytes);
  }

  int PickFd(uint8_t which) const {
    const int fds[] = {ram_.region().memfd, kick_.get(),       call_.get(),     small_.get(),
                       zero_.get(),         pipe_write_.get(), pipe_read_.get()};
    return fds[which % std::size(fds)];
  }

  void Send(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    std::vector<char> control(CMSG_SPACE(sizeof(int) * 40));
    iovec piece{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
    msghdr out{};
    out.msg_iov = &piece;
    out.msg_iovlen = 1;
    if (!fds.empty()) {
      out.msg_control = control.data();
      out.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* part = CMSG_FIRSTHDR(&out);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
    }
    sendmsg(socket_.get(), &out, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void SendRaw(Input& input) {
    std::vector<std::byte> bytes(1 + input.Byte() % 64);
    std::vector<int> fds(input.Byte() % 40);
    for (int& fd : fds) fd = PickFd(input.Byte());
    input.Fill(bytes);
    Send(bytes, fds);
  }

  // Most random messages die in the checks of message.h; these get through more often.
  void SendMessage(Input& input) {
    const auto request = static_cast<FrontEndRequest>(input.Byte() % 44);
    const uint8_t shape = input.Byte();
    std::vector<int> fds(shape % 3);
    for (int& fd : fds) fd = PickFd(input.Byte());
    Message message;
    switch (request) {
      case FrontEndRequest::kSetMemTable: {
        std::vector<MemRegion> regions(fds.size());
        for (MemRegion& region : regions) region = Region(input);
        message = MakeMemTable(regions);
        break;
      }
      case FrontEndRequest::kAddMemReg:
      case FrontEndRequest::kRemMemReg:
        message = MakeRequest(request, SingleMemRegion{0, Region(input)});
        break;
      case FrontEndRequest::kSetVringAddr:
        message = MakeRequest(request, Address(input));
        break;
      case FrontEndRequest::kSetVringNum:
      case FrontEndRequest::kSetVringBase:
      case FrontEndRequest::kSetVringEnable:
      case FrontEndRequest::kGetVringBase:
      case FrontEndRequest::kVringKick:
        message = MakeRequest(request, VringState{input.Byte() % 4U, input.Byte()});
        break;
      case FrontEndRequest::kGetConfig:
      case FrontEndRequest::kSetConfig: {
        const uint32_t offset = input.Byte() % 16;
        message = MakeConfig(request, offset, 0, std::vector<std::byte>(input.Byte() % 16));
        break;
      }
      case FrontEndRequest::kSetFeatures:
        message = MakeRequest(request, uint64_t{1} << 32 | (uint64_t{input.Byte()} << 28));
        break;
      case FrontEndRequest::kGetFeatures:
      case FrontEndRequest::kSetOwner:
      case FrontEndRequest::kGetProtocolFeatures:
      case FrontEndRequest::kGetQueueNum:
      case FrontEndRequest::kResetDevice:
        message = MakeRequest(request);
        break;
      default:
        message = MakeRequest(request, uint64_t{input.Word() & 0x1'ff83});
    }
    if ((shape & 4) != 0) message.flags |= kFlagNeedReply;
    const Header header{.request = message.request,
                        .flags = message.flags,
                        .size = static_cast<uint32_t>(message.payload.size())};
    const auto head = std::as_bytes(std::span(&header, 1));
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), message.payload.begin(), message.payload.end());
    Send(bytes, fds);
  }

  MemRegion Region(Input& input) {
    const uint8_t lie = input.Byte();
    const MemoryRegion ram = ram_.region();
    MemRegion region{.guest_address = Value(ram.start),
                     .size = ram.size,
                     .user_address = reinterpret_cast<uint64_t>(ram.host),
                     .mmap_offset = 0};
    if ((lie & 1) != 0) region.size = uint64_t{input.Word()} << 8;
    if ((lie & 2) != 0) region.guest_address = uint64_t{input.Word()} << 12;
    if ((lie & 4) != 0) region.mmap_offset = uint64_t{input.Word()} << 32;
    if ((lie & 8) != 0) region.user_address += uint64_t{input.Byte()} << 12;
    return region;
  }
  VringAddr Address(Input& input) {
    const uint8_t lie = input.Byte();
    const auto user = [this](GuestAddress address) {
      return reinterpret_cast<uint64_t>(ram_.Host(address));
    };
    VringAddr address{.index = input.Byte() % 4U,
                      .flags = (lie & 0x80U) != 0 ? kVringFlagLog : 0,
                      .desc = user(ring_.setup().desc),
                      .used = user(ring_.setup().device),
                      .avail = user(ring_.setup().driver),
                      .log = 0};
    if ((lie & 1) != 0) address.desc += input.Word();
    if ((lie & 2) != 0) address.used += input.Word();
    if ((lie & 4) != 0) address.avail += input.Word();
    return address;
  }

  static constexpr uint64_t kOne = 1;
  fakes::GuestRam ram_{kRamBytes, fakes::GuestRam::kDefaultStart, true};
  fakes::DriverRing ring_;
  UniqueFd kick_, call_, small_, zero_, pipe_read_, pipe_write_, listener_;
  sockaddr_un address_{};
  socklen_t address_bytes_ = 0;
  fakes::ManualLoop loop_;
  Device device_;
  std::unique_ptr<Server> server_;
  int fds_ = 0;
  UniqueFd socket_;
};

}  // namespace
}  // namespace vhost::user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* world = new vhost::user::World();
  world->Run({data, size});
  return 0;
}
