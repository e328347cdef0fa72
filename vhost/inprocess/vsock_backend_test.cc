// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_backend.h"

#include <gtest/gtest.h>
#include <time.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernel-abi/event_fd.h"
#include "tests/fakes/guest_ram.h"
#include "tests/fakes/vsock_driver.h"
#include "tests/fakes/vsock_guest.h"
#include "vhost/inprocess/vsock_mux_fixture.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::EventFd;
using kernel_abi::LinuxKernel;
using std::chrono::milliseconds;

// A guest with its own memory and eventfds. The test's thread is its vCPU.
class Machine {
 public:
  explicit Machine(uint64_t cid)
      : driver(ram, {.cid = cid, .event_idx = true}), guest(driver, [this] { Kick(); }) {
    for (int i = 0; i < 2; ++i) {
      kicks.push_back(*EventFd::Create(LinuxKernel()));
      calls.push_back(*EventFd::Create(LinuxKernel()));
    }
  }
  void Kick() {
    if (driver.transmit().KickWanted()) kicks[1].Signal();
    if (driver.receive().KickWanted()) kicks[0].Signal();
    std::this_thread::yield();
  }
  BackendVring VringOf(int queue, VringBase base = 0) {
    const VringSetup& setup = queue == 0 ? driver.receive().setup() : driver.transmit().setup();
    return {.queue = queue,
            .vring = *Vring::Create(setup, VringLayout::kSplit, *ram.table()),
            .base = base,
            .kick_fd = kicks[static_cast<size_t>(queue)].get(),
            .call_fd = calls[static_cast<size_t>(queue)].get()};
  }
  BackendStart StartAt(VringBase receive = 0, VringBase transmit = 0) {
    return {.acked = {VirtioFeature::kVersion1, VirtioFeature::kEventIdx,
                      VirtioFeature::kVsockSeqpacket},
            .memory = ram.table(),
            .vrings = {VringOf(0, receive), VringOf(1, transmit)}};
  }
  // Lets the guest work until `done`; false if that takes longer than a test may.
  bool RunUntil(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done()) {
      if (std::chrono::steady_clock::now() > end) return false;
      Kick();
      guest.Receive();
    }
    return true;
  }

  fakes::GuestRam ram{uint64_t{16} << 20};
  fakes::VsockDriver driver;
  fakes::VsockGuest guest;
  std::vector<EventFd> kicks, calls;
};

class VsockBackendTest : public testing::Test {
 protected:
  VsockBackendTest() {
    char name[] = "/tmp/vsock_backend_test.XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~VsockBackendTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<InProcessVsockBackend> Make(uint64_t cid,
                                              std::shared_ptr<DataThread> thread = nullptr) {
    auto backend = InProcessVsockBackend::Create(
        LinuxKernel(),
        {.guest_cid = cid, .host = {.uds_path = Path(cid)}, .thread = std::move(thread)});
    if (!backend.ok()) {
      ADD_FAILURE() << backend.status();
      std::abort();
    }
    return *std::move(backend);
  }
  std::string Path(uint64_t cid) const { return folder_ + "/" + std::to_string(cid); }

  struct Connection {
    fakes::VsockGuest::Socket* guest;
    HostPeer host;
  };
  Connection Connect(Machine& machine, uint64_t cid) {
    auto listener = UnixListener::Create(Path(cid) + "_52");
    Connection connection{machine.guest.Connect(52), HostPeer()};
    EXPECT_TRUE(machine.RunUntil([&] { return connection.guest->established; }));
    connection.host =
        HostPeer(kernel_abi::UniqueFd(accept4(listener->fd(), nullptr, nullptr, SOCK_NONBLOCK)));
    EXPECT_TRUE(connection.host.valid());
    return connection;
  }
  // Both directions at once, checked.
  static void Exchange(Machine& machine, Connection& connection, size_t bytes) {
    std::string up(bytes, '\0'), down(bytes, '\0');
    for (size_t i = 0; i < bytes; ++i) {
      up[i] = static_cast<char>(i * 31 + i / 251);
      down[i] = static_cast<char>(i * 17 + i / 127);
    }
    connection.guest->received.clear();
    size_t sent = 0, said = 0;
    std::string heard;
    EXPECT_TRUE(machine.RunUntil([&] {
      if (sent < bytes) sent += connection.guest->Send(up.substr(sent, 100'000));
      if (said < bytes) {
        said += static_cast<size_t>(
            std::max<ssize_t>(0, connection.host.Say(down.substr(said, 100'000))));
      }
      if (const auto text = connection.host.Hear(); text.has_value()) heard += *text;
      return heard.size() >= bytes && connection.guest->received.size() >= bytes;
    })) << heard.size()
        << " " << connection.guest->received.size() << " of " << bytes;
    EXPECT_TRUE(heard == up);
    EXPECT_TRUE(connection.guest->received == down);
  }

  std::string folder_;
};

TEST_F(VsockBackendTest, ServesAGuestOnItsOwnThread) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  EXPECT_TRUE(machine.calls[0].Drain());
  EXPECT_TRUE(machine.calls[1].Drain());
  Connection connection = Connect(machine, 3);
  Exchange(machine, connection, 2'000'000);
  const VsockStats stats = backend->stats();
  EXPECT_EQ(stats.from_guest.bytes, 2'000'000u);
  EXPECT_EQ(stats.to_guest.bytes, 2'000'000u);
  EXPECT_TRUE(machine.calls[0].Drain());
}

TEST_F(VsockBackendTest, KeepsConnectionsFromStopToStart) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  for (int i = 0; i < 20; ++i) {
    Exchange(machine, connection, 50'000);
    const std::vector<StoppedVring> stopped = backend->Stop();
    ASSERT_EQ(stopped.size(), 2u);
    EXPECT_EQ(stopped[0].queue, 0);
    EXPECT_EQ(static_cast<uint16_t>(stopped[1].base), machine.driver.transmit().available_index());
    connection.host.Say("meanwhile");
    ASSERT_TRUE(backend->Start(machine.StartAt(stopped[0].base, stopped[1].base)).ok());
    connection.guest->received.clear();
    EXPECT_TRUE(machine.RunUntil([&] { return connection.guest->received == "meanwhile"; }));
  }
  EXPECT_TRUE(backend->Stop().size() == 2 && backend->Stop().empty());
}

TEST_F(VsockBackendTest, ANewDriverFindsNoOldConnections) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  backend->Stop();
  machine.driver.Begin();
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  EXPECT_TRUE(machine.RunUntil([&] { return connection.host.AtEnd(); }));
  Connection again = Connect(machine, 3);
  Exchange(machine, again, 10'000);
}

TEST_F(VsockBackendTest, DropsConnectionsWhenToldTo) {
  Machine machine(3);
  auto backend = Make(3);
  EXPECT_TRUE(backend->holds_connections());
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  backend->DropConnections();
  EXPECT_TRUE(connection.host.AtEnd());
}

TEST_F(VsockBackendTest, RestartsOneQueueByItself) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  for (int queue : {0, 1}) {
    const auto base = backend->StopVring(queue);
    ASSERT_TRUE(base.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(backend->StopVring(queue).status()));
    ASSERT_TRUE(backend->StartVring(machine.VringOf(queue, *base)).ok());
    EXPECT_FALSE(backend->StartVring(machine.VringOf(queue, *base)).ok());
    Exchange(machine, connection, 20'000);
  }
}

TEST_F(VsockBackendTest, SharesAThreadWithOthers) {
  auto thread = DataThread::Create(LinuxKernel(), {.name = "shared"});
  ASSERT_TRUE(thread.ok());
  const std::shared_ptr<DataThread> shared = *std::move(thread);
  Machine first(3), second(4);
  auto one = Make(3, shared);
  auto two = Make(4, shared);
  ASSERT_TRUE(one->Start(first.StartAt()).ok());
  ASSERT_TRUE(two->Start(second.StartAt()).ok());
  Connection a = Connect(first, 3);
  Connection b = Connect(second, 4);
  Exchange(first, a, 200'000);
  one->Stop();
  Exchange(second, b, 200'000);
}

TEST_F(VsockBackendTest, TellsOfABrokenRing) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  machine.driver.transmit().PublishHead(50'000);
  machine.kicks[1].Signal();
  EXPECT_TRUE(machine.RunUntil([&] { return EventFd::IsEventFdSignalled(backend->error_fd(1)); }));
  EXPECT_FALSE(EventFd::IsEventFdSignalled(backend->error_fd(0)));
  backend->CountError(1);
  EXPECT_EQ(backend->Report().vrings[1].errors, 1u);
  backend->Stop();
}

TEST_F(VsockBackendTest, RefusesWhatItCannotServeAndHoldsNothingThen) {
  Machine machine(3);
  auto backend = Make(3);
  BackendStart start = machine.StartAt();
  start.acked.Set(VirtioFeature::kAccessPlatform);
  EXPECT_TRUE(absl::IsInvalidArgument(backend->Start(start)));
  start = machine.StartAt();
  start.vrings[1].queue = 2;
  EXPECT_TRUE(absl::IsInvalidArgument(backend->Start(start)));
  start.vrings[1].queue = 0;
  EXPECT_FALSE(backend->Start(start).ok());
  EXPECT_FALSE(backend->Report().running);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(backend->Start(machine.StartAt())));
  EXPECT_TRUE(absl::IsInvalidArgument(
      InProcessVsockBackend::Create(LinuxKernel(),
                                    {.guest_cid = 2, .host = {.uds_path = folder_ + "/x"}})
          .status()));
}

TEST_F(VsockBackendTest, TellsOfItsQueuesAndConnections) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  Exchange(machine, connection, 10'000);
  auto* refused = machine.guest.Connect(99);
  EXPECT_TRUE(machine.RunUntil([&] { return refused->reset; }));
  const BackendReport report = backend->Report();
  EXPECT_EQ(report.kind, BackendKind::kInProcess);
  EXPECT_EQ(report.node, Path(3));
  EXPECT_TRUE(report.running);
  ASSERT_EQ(report.vrings.size(), 2u);
  ASSERT_TRUE(report.vrings[0].data_path.has_value());
  EXPECT_EQ(report.vrings[0].data_path->bytes, 10'000u);
  EXPECT_EQ(report.vrings[1].data_path->bytes, 10'000u);
  EXPECT_GT(report.vrings[1].data_path->kicks, 0u);
  ASSERT_EQ(report.vrings[1].data_path->drops.size(), 1u);
  EXPECT_EQ(report.vrings[1].data_path->drops[0].reason, "refused");
  ASSERT_TRUE(report.sockets.has_value());
  EXPECT_EQ(report.sockets->open, 1u);
  EXPECT_EQ(report.sockets->established, 1u);
  ASSERT_EQ(report.sockets->connections.size(), 1u);
  EXPECT_EQ(report.sockets->connections[0].state, "established");
  EXPECT_EQ(report.sockets->connections[0].host_port, 52u);
  EXPECT_EQ(report.sockets->connections[0].bytes_to_guest, 10'000u);
  EXPECT_EQ(report.sockets->connections[0].bytes_from_guest, 10'000u);
  EXPECT_TRUE(report.sockets->connections[0].by_guest);
}

TEST_F(VsockBackendTest, TakesAnotherMemoryTableWhereItsRingsStay) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  fakes::GuestRam more(1 << 20, uint64_t{1} << 40);
  auto table = MemoryTable::Create({machine.ram.region(), more.region()});
  ASSERT_TRUE(table.ok());
  EXPECT_TRUE(backend->SetMemory(std::make_shared<const MemoryTable>(*table)).ok());
  Exchange(machine, connection, 10'000);
  EXPECT_TRUE(absl::IsFailedPrecondition(backend->SetMemory(more.table())));
  Exchange(machine, connection, 10'000);
}

TEST_F(VsockBackendTest, TakesNoCpuTimeWhenNothingHappens) {
  Machine machine(3);
  auto backend = Make(3);
  ASSERT_TRUE(backend->Start(machine.StartAt()).ok());
  Connection connection = Connect(machine, 3);
  Exchange(machine, connection, 10'000);
  std::this_thread::sleep_for(milliseconds(50));
  const uint64_t before = backend->Report().workers[0].cpu_time_ns.value_or(0);
  std::this_thread::sleep_for(milliseconds(300));
  const uint64_t after = backend->Report().workers[0].cpu_time_ns.value_or(0);
  EXPECT_LT(after - before, 3'000'000u);  // 1%, most of it for the report
}

}  // namespace
}  // namespace vhost::inprocess
