// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The vsock backend on the real /dev/vhost-vsock: a host process connects, and this process answers
// from the rings as a guest would.
#include <gmock/gmock.h>
#include <sys/socket.h>

#include <cerrno>

#include "kernel-abi/system_error.h"
#include "kernel-abi/virtio.h"
#include "tests/integration/real_machine.h"
#include "tests/integration/vsock_address.h"
#include "vhost/kernel/vsock_backend.h"

namespace vhost {
namespace {

using testing::HasSubstr;

constexpr VirtioFeatures kAcked = {VirtioFeature::kVersion1};
constexpr uint32_t kPort = 4321;

class VsockTest : public RealMachineTest {
 protected:
  VsockTest() : RealMachineTest(kernel_abi::kVhostVsockPath) {}

  std::unique_ptr<VsockBackend> MakeVsock(VsockBackendOptions options = {}) {
    while (queues_.size() < 2) AddQueue();
    auto vsock = VsockBackend::Create(kernel_, std::move(options));
    EXPECT_TRUE(vsock.ok()) << vsock.status();
    return vsock.ok() ? *std::move(vsock) : nullptr;
  }
  void PostReceiveBuffers(int count) {
    for (int i = 0; i < count; ++i) queues_[0]->ring.Chain().Writable(4096).Publish();
    queues_[0]->kick.Signal();
  }
  // The next packet from the host, its header and what is behind it.
  struct Packet {
    kernel_abi::VirtioVsockHdr header;
    std::string payload;
  };
  std::optional<Packet> Receive() {
    const auto used = WaitUsed(*queues_[0]);
    if (!used.has_value() || used->data.size() < sizeof(kernel_abi::VirtioVsockHdr)) return {};
    Packet packet;
    std::memcpy(&packet.header, used->data.data(), sizeof(packet.header));
    packet.payload = used->text().substr(sizeof(packet.header));
    return packet;
  }
  // Answers `to` with operation `op`.
  void Send(const kernel_abi::VirtioVsockHdr& to, uint16_t op, absl::string_view payload = {}) {
    kernel_abi::VirtioVsockHdr header{};
    header.src_cid = to.dst_cid;
    header.dst_cid = to.src_cid;
    header.src_port = to.dst_port;
    header.dst_port = to.src_port;
    header.len = static_cast<uint32_t>(payload.size());
    header.type = to.type;
    header.op = op;
    header.buf_alloc = 1 << 16;
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
    bytes.append(payload.data(), payload.size());
    queues_[1]->ring.Chain().Readable(bytes).Publish();
    queues_[1]->kick.Signal();
  }
  // A host socket that is connecting to the guest, without waiting for it.
  static kernel_abi::UniqueFd Connect(uint64_t cid) {
    kernel_abi::UniqueFd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const VsockAddress address{.port = kPort, .cid = static_cast<uint32_t>(cid)};
    const int result =
        ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    EXPECT_TRUE(result == 0 || errno == EINPROGRESS || errno == EHOSTUNREACH) << errno;
    return fd;
  }
  static int ConnectError(int fd) {
    pollfd connected{.fd = fd, .events = POLLOUT, .revents = 0};
    if (::poll(&connected, 1, kPatienceMs) != 1) return ETIMEDOUT;
    int error = 0;
    socklen_t length = sizeof(error);
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return error;
  }
};

TEST_F(VsockTest, AHostProcessTalksToTheRings) {
  auto vsock = MakeVsock();
  ASSERT_NE(vsock, nullptr);
  PostReceiveBuffers(32);
  ASSERT_TRUE(vsock->Start(AllQueues(kAcked)).ok());
  const kernel_abi::UniqueFd host = Connect(vsock->guest_cid());
  const std::optional<Packet> request = Receive();
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->header.op, kernel_abi::kVsockOpRequest);
  EXPECT_EQ(request->header.dst_cid, vsock->guest_cid());
  EXPECT_EQ(request->header.dst_port, kPort);
  Send(request->header, kernel_abi::kVsockOpResponse);
  ASSERT_EQ(ConnectError(host.get()), 0);

  ASSERT_EQ(::send(host.get(), "hello guest", 11, 0), 11);
  std::optional<Packet> data = Receive();
  while (data.has_value() && data->header.op != kernel_abi::kVsockOpRw) data = Receive();
  ASSERT_TRUE(data.has_value());
  EXPECT_EQ(data->payload, "hello guest");
  Send(request->header, kernel_abi::kVsockOpRw, "hello host");
  pollfd readable{.fd = host.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&readable, 1, kPatienceMs), 1);
  char text[32];
  ASSERT_EQ(::recv(host.get(), text, sizeof(text), 0), 10);
  EXPECT_EQ(std::string(text, 10), "hello host");
}

TEST_F(VsockTest, AConnectionTriedBeforeTheStartWaitsOrIsRefusedAtOnce) {
  auto vsock = MakeVsock();
  ASSERT_NE(vsock, nullptr);
  const kernel_abi::UniqueFd host = Connect(vsock->guest_cid());
  if (errno == EHOSTUNREACH) return;  // Linux 7.
  PostReceiveBuffers(8);
  ASSERT_TRUE(vsock->Start(AllQueues(kAcked)).ok());
  const std::optional<Packet> request = Receive();
  ASSERT_TRUE(request.has_value());
  Send(request->header, kernel_abi::kVsockOpRst);
  EXPECT_EQ(ConnectError(host.get()), ECONNRESET);
}

TEST_F(VsockTest, ConnectionsLiveThroughAStopAndStart) {
  auto vsock = MakeVsock();
  ASSERT_NE(vsock, nullptr);
  PostReceiveBuffers(32);
  BackendStart start = AllQueues(kAcked);
  ASSERT_TRUE(vsock->Start(start).ok());
  const kernel_abi::UniqueFd host = Connect(vsock->guest_cid());
  const std::optional<Packet> request = Receive();
  ASSERT_TRUE(request.has_value());
  Send(request->header, kernel_abi::kVsockOpResponse);
  ASSERT_EQ(ConnectError(host.get()), 0);
  for (const StoppedVring& vring : vsock->Stop()) {
    start.vrings[static_cast<size_t>(vring.queue)].base = vring.base;
  }
  // Older kernels keep what is sent meanwhile, Linux 7 refuses it; the connection lives in both.
  const ssize_t sent = ::send(host.get(), "waited", 6, 0);
  ASSERT_TRUE(sent == 6 || errno == EHOSTUNREACH) << errno;
  ASSERT_TRUE(vsock->Start(start).ok());
  if (sent != 6) {
    ASSERT_EQ(::send(host.get(), "waited", 6, 0), 6);
  }
  std::optional<Packet> data = Receive();
  while (data.has_value() && data->header.op != kernel_abi::kVsockOpRw) data = Receive();
  ASSERT_TRUE(data.has_value());
  EXPECT_EQ(data->payload, "waited");
}

TEST_F(VsockTest, CidsAreAllocatedAndKept) {
  auto first = MakeVsock({.first_cid = 5000, .last_cid = 5001});
  auto second = MakeVsock({.first_cid = 5000, .last_cid = 5001});
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(first->guest_cid(), 5000u);
  EXPECT_EQ(second->guest_cid(), 5001u);
  const absl::Status taken = VsockBackend::Create(kernel_, {.cid = 5000}).status();
  EXPECT_EQ(kernel_abi::GetErrno(taken), EADDRINUSE);
  EXPECT_THAT(taken.message(), HasSubstr("another guest"));
  first.reset();
  EXPECT_TRUE(VsockBackend::Create(kernel_, {.cid = 5000}).ok());
}

}  // namespace
}  // namespace vhost
