// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The verbs against real servers on real sockets, in a runtime directory of the test's own.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/event_fd.h"
#include "src/vhostctl/client.h"
#include "src/vhostctl/verb.h"
#include "vhost/control/commands.h"
#include "vhost/control/listener.h"
#include "vhost/control/runtime_directory.h"
#include "vhost/control/sample_report.h"
#include "vhost/control/server.h"
#include "vhost/epoll_loop.h"

namespace vhost::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class Vm final : public control::Subject {
 public:
  Vm(std::string name, int pid, std::vector<DeviceReport> devices)
      : name_(std::move(name)), pid_(pid), devices_(std::move(devices)) {}
  control::ProcessInfo Process() const override { return {name_, pid_, "0.1.0"}; }
  std::vector<DeviceReport> Describe() const override { return devices_; }
  absl::StatusOr<DeviceReport> Describe(absl::string_view device) const override {
    for (const DeviceReport& report : devices_) {
      if (report.name == device) return report;
    }
    return absl::NotFoundError("no such device");
  }
  absl::StatusOr<HandoverReport> Handover(absl::string_view device, BackendKind to,
                                          absl::string_view reason) override {
    calls.push_back(absl::StrCat("handover ", device, " ", Name(to), " ", reason));
    if (!answer.ok()) return answer;
    return HandoverReport{.from = BackendKind::kKernel, .to = to, .stopped_us = 87};
  }
  absl::Status Pause(absl::string_view device, absl::string_view reason) override {
    calls.push_back(absl::StrCat("pause ", device, " ", reason));
    return answer;
  }
  absl::Status Resume(absl::string_view device) override {
    calls.push_back(absl::StrCat("resume ", device));
    return answer;
  }
  absl::StatusOr<CaptureBatch> Capture(absl::string_view device,
                                       const CaptureRequest& request) override {
    calls.push_back(absl::StrCat("capture ", device, " after ", request.after.value_or(0)));
    return batch;
  }
  CaptureBatch batch;
  absl::StatusOr<std::string> Plug(absl::string_view description) override {
    calls.push_back(absl::StrCat("plug ", description));
    if (!answer.ok()) return answer;
    return "net7";
  }
  absl::Status Unplug(absl::string_view device) override {
    calls.push_back(absl::StrCat("unplug ", device));
    if (guest_lets_go) {
      std::erase_if(devices_, [&](const DeviceReport& report) { return report.name == device; });
    }
    return answer;
  }
  bool guest_lets_go = true;
  std::vector<std::string> calls;
  absl::Status answer;
  const std::string& name() const { return name_; }
  int pid() const { return pid_; }

 private:
  std::string name_;
  int pid_;
  std::vector<DeviceReport> devices_;
};

class VerbsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/vhostctl-test-XXXXXX";
    session_ = mkdtemp(name);
    ASSERT_TRUE(control::MakeRuntimeDirectory(Directory(), std::nullopt).ok());
    loop_ = *EpollLoop::Create();
  }
  void TearDown() override {
    servers_.clear();
    std::filesystem::remove_all(session_);
  }

  std::string Directory() const { return session_ + "/libvhost"; }

  // Publishes to all servers, on the loop's thread.
  void Publish(const DeviceEvent& event) {
    absl::Notification done;
    const kernel_abi::EventFd wake = *kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
    auto watch = loop_->WatchReadable(wake.get(), [&] {
      wake.Drain();
      for (const auto& server : servers_) server->Publish(event, 0);
      done.Notify();
    });
    ASSERT_TRUE(watch.ok());
    wake.Signal();
    done.WaitForNotification();
  }

  std::string Serve(Vm& vm) {
    const std::string path = *control::SocketPath(Directory(), vm.name(), vm.pid());
    auto server = control::Server::Create(*loop_, control::HandlerFor(vm), {.path = path});
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) servers_.push_back(*std::move(server));
    return path;
  }

  // In the test's own directory, so that VMs of this machine do not show up.
  Outcome Call(std::vector<const char*> arguments) const {
    Invocation invocation = {.directory = Directory()};
    const absl::Status parsed = ParseCommandLine(arguments, &invocation);
    return parsed.ok() ? ctl::Run(invocation) : WrongUsage(parsed.message());
  }

  std::string session_;
  std::unique_ptr<EpollLoop> loop_;
  std::vector<std::unique_ptr<control::Server>> servers_;
};

TEST_F(VerbsTest, ListShowsTheDevicesOfAllVms) {
  Vm web("web", 11, {control::SampleNet(), control::SampleVsock()});
  Vm db("db", 22, {control::SampleNet()});
  Serve(web);
  Serve(db);
  const Outcome outcome = Call({"list"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_EQ(outcome.out,
            "VM   PID  DEVICE  TYPE   BACKEND  STATE        QUEUES  PEER   WORKERS    TRANSPORT\n"
            "db   22   net0    net    kernel   paused       2/3     tap0   4321,4322  virtio-pci "
            "00:01.0\n"
            "web  11   net0    net    kernel   paused       2/3     tap0   4321,4322  virtio-pci "
            "00:01.0\n"
            "web  11   vsock0  vsock  none     needs-reset  0/0     cid 3  -          none\n");
}

TEST_F(VerbsTest, FindsSocketsInTheDirectoryOfTheSession) {
  setenv("XDG_RUNTIME_DIR", session_.c_str(), 1);
  EXPECT_EQ(control::RuntimeDirectory(), Directory());
  Vm web("web", 11, {});
  const std::string path = Serve(web);
  EXPECT_THAT(control::FindSockets(), ::testing::Contains(path));
  unsetenv("XDG_RUNTIME_DIR");
  EXPECT_EQ(control::RuntimeDirectory(), "/run/libvhost");
  setenv("XDG_RUNTIME_DIR", "relative", 1);
  EXPECT_EQ(control::RuntimeDirectory(), "/run/libvhost");
}

TEST_F(VerbsTest, ListOfNothingIsNothing) {
  const Outcome outcome = Call({"list"});
  EXPECT_EQ(outcome.code, kOk);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(Call({"list", "--json"}).out, "[]\n");
}

TEST_F(VerbsTest, ListAsJsonNamesTheSocket) {
  Vm web("web", 11, {control::SampleVsock()});
  const std::string path = Serve(web);
  const Outcome outcome = Call({"--json", "list"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr(absl::StrCat("\"socket\": \"", path, "\"")));
  EXPECT_THAT(outcome.out, HasSubstr("\"guest_cid\": 3"));
}

TEST_F(VerbsTest, ListPassesOverSocketsOfDeadProcesses) {
  Vm web("web", 11, {control::SampleVsock()});
  const std::string dead = *control::SocketPath(Directory(), "dead", 9);
  {
    const auto listener = control::Listener::Create(dead, std::nullopt);
    std::filesystem::create_hard_link(dead, dead + "x");
  }
  std::filesystem::rename(dead + "x", dead);
  Serve(web);
  const Outcome outcome = Call({"list"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("web"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("dead")));
}

TEST_F(VerbsTest, ShowFindsADeviceWhereverItIs) {
  Vm web("web", 11, {control::SampleNet()});
  Vm db("db", 22, {control::SampleVsock()});
  Serve(web);
  Serve(db);
  const Outcome outcome = Call({"show", "vsock0"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("vsock0: vsock, none, VM db, process 22\n"));
  const Outcome json = Call({"show", "net0", "--json"});
  EXPECT_THAT(json.out, HasSubstr("\"kick_count\": 17"));
}

TEST_F(VerbsTest, ShowWantsTheVmWhereThereAreSeveral) {
  Vm web("web", 11, {control::SampleNet()});
  Vm db("db", 22, {control::SampleNet()});
  Serve(web);
  Serve(db);
  const Outcome both = Call({"show", "net0"});
  EXPECT_EQ(both.code, kFailure);
  EXPECT_THAT(both.err, HasSubstr("several VMs have one: db/net0 (22/net0), web/net0 (11/net0)"));
  EXPECT_THAT(Call({"show", "web/net0"}).out, HasSubstr("VM web"));
  EXPECT_THAT(Call({"show", "22/net0"}).out, HasSubstr("VM db"));
  EXPECT_EQ(Call({"show", "mail/net0"}).code, kNotFound);
  EXPECT_EQ(Call({"show", "web/net1"}).code, kNotFound);
}

TEST_F(VerbsTest, ExitCodesTellWhatWentWrong) {
  EXPECT_EQ(Call({}).code, kUsage);
  EXPECT_EQ(Call({"dance"}).code, kUsage);
  EXPECT_EQ(Call({"--frob"}).code, kUsage);
  EXPECT_EQ(Call({"list", "x"}).code, kUsage);
  EXPECT_EQ(Call({"show"}).code, kUsage);
  EXPECT_EQ(Call({"show", "web/"}).code, kUsage);
  EXPECT_EQ(Call({"list", "--socket"}).code, kUsage);
  EXPECT_EQ(Call({"list", "--socket="}).code, kUsage);
  EXPECT_EQ(Call({"list", "--sockets", "x"}).code, kUsage);
  EXPECT_EQ(Call({"show", "net0"}).code, kNotFound);
  EXPECT_EQ(Call({"list", "--socket", "/nowhere.sock"}).code, kNotFound);
  EXPECT_EQ(Call({"--help"}).code, kOk);
  EXPECT_THAT(Call({"--help"}).out, HasSubstr("Usage: vhostctl"));
  EXPECT_THAT(Call({"show", "--help"}).out, HasSubstr("Usage: vhostctl show [VM/]DEVICE"));
  EXPECT_THAT(Call({"--version"}).out, HasSubstr("vhostctl 0."));
}

TEST_F(VerbsTest, AProcessThatDoesNotAnswerIsGivenUpOn) {
  const std::string path = *control::SocketPath(Directory(), "stuck", 5);
  const auto listener = control::Listener::Create(path, std::nullopt);
  ASSERT_TRUE(listener.ok());
  const absl::Status status = Ask(path, {.command = "list"}, absl::Milliseconds(50)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_EQ(ExitCodeOf(status), kUnreachable);
}

TEST_F(VerbsTest, AProcessThatIsRefusedSaysWhy) {
  Vm web("web", 11, {});
  const std::string path = *control::SocketPath(Directory(), "web", 11);
  auto server =
      control::Server::Create(*loop_, control::HandlerFor(web), {.path = path, .max_clients = 0});
  ASSERT_TRUE(server.ok());
  const Outcome outcome = Call({"list"});
  EXPECT_EQ(outcome.code, kFailure);
  EXPECT_THAT(outcome.err, HasSubstr("0 clients are connected, which is the most it serves"));
}

TEST_F(VerbsTest, AnAnswerThatIsNoneIsAFailure) {
  const std::string path = *control::SocketPath(Directory(), "mad", 5);
  auto server = control::Server::Create(
      *loop_, [](absl::string_view) { return std::string("\x1b[2J\n"); }, {.path = path});
  ASSERT_TRUE(server.ok());
  const Outcome outcome = Call({"list"});
  EXPECT_EQ(outcome.code, kFailure);
  EXPECT_THAT(outcome.err, HasSubstr("reply: not a JSON object"));
}

TEST_F(VerbsTest, HandoverAsksTheProcessThatHasTheDevice) {
  Vm web("web", 11, {control::SampleNet()});
  Vm db("db", 22, {control::SampleNet()});
  Serve(web);
  Serve(db);
  const Outcome outcome = Call({"handover", "web/net0", "--to", "in-process"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_EQ(outcome.out, "web/net0: from kernel to in-process, stopped for 87 us\n");
  EXPECT_THAT(web.calls, ElementsAre("handover net0 in-process vhostctl"));
  EXPECT_THAT(db.calls, IsEmpty());
  EXPECT_THAT(Call({"handover", "22/net0", "--to=kernel", "--reason", "maintenance", "--json"}).out,
              HasSubstr("\"stopped_us\": 87"));
  EXPECT_THAT(db.calls, ElementsAre("handover net0 kernel maintenance"));
}

TEST_F(VerbsTest, HandoverSaysWhyItCouldNotBe) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  EXPECT_EQ(Call({"handover", "net0"}).code, kUsage);
  EXPECT_EQ(Call({"handover", "--to", "kernel"}).code, kUsage);
  EXPECT_EQ(Call({"handover", "net7", "--to", "kernel"}).code, kNotFound);
  const Outcome nonsense = Call({"handover", "net0", "--to", "moon"});
  EXPECT_EQ(nonsense.code, kFailure);
  EXPECT_THAT(nonsense.err, HasSubstr("not \"moon\""));
  EXPECT_THAT(web.calls, IsEmpty());
  web.answer = absl::FailedPreconditionError("net0: offload policy require rules it out");
  const Outcome refused = Call({"handover", "net0", "--to", "in-process"});
  EXPECT_EQ(refused.code, kFailure);
  EXPECT_THAT(refused.err, HasSubstr("offload policy require"));
}

TEST_F(VerbsTest, PauseAndResume) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  EXPECT_EQ(Call({"pause", "net0"}).out, "web/net0: paused\n");
  EXPECT_EQ(Call({"resume", "net0"}).out, "web/net0: goes on\n");
  EXPECT_THAT(Call({"pause", "net0", "--json"}).out, HasSubstr("\"paused\": true"));
  EXPECT_THAT(web.calls, ElementsAre("pause net0 vhostctl", "resume net0", "pause net0 vhostctl"));
  web.answer = absl::PermissionDeniedError("/dev/vhost-net: EACCES");
  EXPECT_EQ(Call({"resume", "net0"}).code, kNotPermitted);
}

TEST_F(VerbsTest, PlugAddsToTheOnlyVmOrTheOneNamed) {
  Vm web("web", 11, {control::SampleNet()});
  Vm db("db", 22, {});
  Serve(web);
  EXPECT_EQ(Call({"plug", "virtio-net-pci,tap=t"}).out, "web/net7: plugged\n");
  Serve(db);
  const Outcome ambiguous = Call({"plug", "virtio-net-pci"});
  EXPECT_EQ(ambiguous.code, kUsage);
  EXPECT_THAT(ambiguous.err, HasSubstr("of which VM? There are "));
  EXPECT_EQ(Call({"plug", "db", "virtio-net-pci"}).out, "db/net7: plugged\n");
  EXPECT_EQ(Call({"plug", "22", "x"}).out, "db/net7: plugged\n");
  EXPECT_THAT(Call({"plug", "db", "x", "--json"}).out, HasSubstr("\"device\": \"net7\""));
  EXPECT_EQ(Call({"plug", "mail", "x"}).code, kNotFound);
  EXPECT_EQ(Call({"plug"}).code, kUsage);
  EXPECT_THAT(web.calls, ElementsAre("plug virtio-net-pci,tap=t"));
  web.answer = absl::InvalidArgumentError("no such device");
  const Outcome refused = Call({"plug", "web", "e1000"});
  EXPECT_EQ(refused.code, kFailure);
  EXPECT_THAT(refused.err, HasSubstr("no such device"));
}

TEST_F(VerbsTest, UnplugWaitsForTheGuest) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  EXPECT_EQ(Call({"unplug", "net0", "--timeout", "soon"}).code, kUsage);
  web.guest_lets_go = false;
  const Outcome kept = Call({"unplug", "net0", "--timeout", "0"});
  EXPECT_EQ(kept.code, kFailure);
  EXPECT_THAT(kept.err, HasSubstr("web/net0: the guest has not let go of it after 0 s"));
  web.guest_lets_go = true;
  EXPECT_EQ(Call({"unplug", "web/net0"}).out, "web/net0: unplugged\n");
  EXPECT_EQ(Call({"unplug", "net0"}).code, kNotFound);
}

TEST_F(VerbsTest, EventsAreToldAsTheyHappen) {
  Vm web("web", 11, {control::SampleNet()});
  Vm db("db", 22, {control::SampleVsock()});
  Serve(web);
  const std::string socket = Serve(db);
  // Nobody knows when it listens: what is told again and again is heard then.
  std::atomic<bool> heard = false;
  std::thread happening([&] {
    while (!heard) {
      Publish({.device = "net0",
               .report = {.time = "T", .what = "stall", .queue = 1, .text = "tx0 \x1b[2J"}});
      absl::SleepFor(absl::Milliseconds(10));
    }
  });
  std::string text, json;
  Invocation invocation = {
      .verb = "events", .arguments = {"web/net0"}, .directory = Directory(), .count = "2"};
  invocation.write = [&](absl::string_view line) { return absl::StrAppend(&text, line), true; };
  EXPECT_EQ(ctl::Run(invocation).code, kOk);
  invocation.json = true;
  invocation.count = "1";
  invocation.arguments.clear();
  invocation.write = [&](absl::string_view line) { return absl::StrAppend(&json, line), true; };
  EXPECT_EQ(ctl::Run(invocation).code, kOk);
  // Nobody reads it.
  invocation.count.clear();
  invocation.write = [](absl::string_view) { return false; };
  EXPECT_EQ(ctl::Run(invocation).code, kOk);
  heard = true;
  happening.join();
  EXPECT_EQ(text,
            "T web/net0 stall queue 1: tx0 \\x1b[2J\nT web/net0 stall queue 1: tx0 \\x1b[2J\n");
  EXPECT_THAT(json, HasSubstr("\"event\":{\"device\":\"net0\",\"time\":\"T\",\"what\":\"stall\""));
  const Outcome none = Call({"events", "net7", "--socket", socket.c_str()});
  EXPECT_EQ(none.code, kNotFound) << none.err;
  EXPECT_EQ(Call({"events", "a", "b"}).code, kUsage);
  EXPECT_EQ(Call({"events", "--count", "0"}).code, kUsage);
}

TEST_F(VerbsTest, EventsAreAskedForAgainWhereTheyWereRefused) {
  Vm web("web", 11, {control::SampleNet()});
  std::atomic<int> asked = 0;
  auto server = control::Server::Create(*loop_,
                                        [&](absl::string_view line) -> control::Reply {
                                          if (asked++ > 0) return control::Answer(web, line);
                                          return control::ErrorLine(
                                              "null", absl::ResourceExhaustedError("too many"));
                                        },
                                        {.path = *control::SocketPath(Directory(), "web", 11)});
  ASSERT_TRUE(server.ok()) << server.status();
  servers_.push_back(*std::move(server));
  std::atomic<bool> heard = false;
  std::thread happening([&] {
    while (!heard) {
      Publish({.device = "net0", .report = {.what = "reset"}});
      absl::SleepFor(absl::Milliseconds(10));
    }
  });
  Invocation invocation = {.verb = "events", .directory = Directory(), .count = "1"};
  invocation.write = [](absl::string_view) { return true; };
  const Outcome outcome = ctl::Run(invocation);
  heard = true;
  happening.join();
  EXPECT_EQ(outcome.code, kOk);
  EXPECT_EQ(outcome.err, "");
}

TEST_F(VerbsTest, AProcessIsWhoTheKernelSaysItIs) {
  // Another process, which claims to be the first of all.
  const std::string path = *control::SocketPath(Directory(), "liar", 1);
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  const kernel_abi::UniqueFd is_ready(ready[0]);
  kernel_abi::UniqueFd tell(ready[1]);
  const pid_t child = fork();
  if (child == 0) {
    // Nothing but system calls: other threads' locks are not ours any more.
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener, 1) != 0 || write(tell.get(), "x", 1) != 1) {
      _exit(1);
    }
    constexpr char kReply[] =
        R"({"ok":true,"result":{"process":{"vm":"liar","pid":1},"devices":[]}})"
        "\n";
    const int client = accept(listener, nullptr, nullptr);
    _exit(write(client, kReply, sizeof(kReply) - 1) > 0 ? 0 : 1);
  }
  tell.Reset();
  char byte;
  ASSERT_EQ(read(is_ready.get(), &byte, 1), 1);
  const auto answer = Ask(path, {.command = "list"}, absl::Seconds(60));
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(*answer, HasSubstr(absl::StrCat("\"pid\":", child, "}")));
}

TEST_F(VerbsTest, EventsOfAProcessEndWithIt) {
  Vm web("web", 11, {control::SampleNet()});
  const std::string socket = Serve(web);
  Invocation invocation = {.verb = "events", .socket = socket};
  absl::Notification subscribed;
  invocation.write = [&](absl::string_view) {
    if (!subscribed.HasBeenNotified()) subscribed.Notify();
    return true;
  };
  Outcome outcome;
  std::thread listening([&] { outcome = ctl::Run(invocation); });
  while (!subscribed.WaitForNotificationWithTimeout(absl::Milliseconds(10))) {
    Publish({.device = "net0", .report = {.what = "reset"}});
  }
  servers_.clear();
  listening.join();
  EXPECT_EQ(outcome.code, kUnreachable) << outcome.err;
}

TEST_F(VerbsTest, StatsTakeTwoSamples) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  const Outcome text = Call({"stats", "--interval", "0.01"});
  EXPECT_EQ(text.code, kOk) << text.err;
  EXPECT_THAT(text.out, HasSubstr("SUPPRESSED"));
  EXPECT_THAT(text.out, HasSubstr("rx0"));
  EXPECT_THAT(Call({"stats", "11/net0", "--interval=0.01", "--json"}).out,
              HasSubstr("\"chains_per_s\": 0"));
  EXPECT_EQ(Call({"stats", "db/net0", "--interval=0.01"}).code, kNotFound);
  for (const char* wrong : {"0", "x", "-1", "nan", "1e9"}) {
    EXPECT_EQ(Call({"stats", "--interval", wrong}).code, kUsage) << wrong;
  }
}

TEST_F(VerbsTest, TopWritesTablesAndJsonWithoutATerminal) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  std::string text;
  const auto run = [&](std::vector<const char*> arguments) {
    Invocation invocation = {.directory = Directory()};
    text.clear();
    invocation.write = [&](absl::string_view more) { return absl::StrAppend(&text, more), true; };
    arguments.insert(arguments.begin(), {"top", "--interval", "0.01"});
    const absl::Status parsed = ParseCommandLine(arguments, &invocation);
    return parsed.ok() ? ctl::Run(invocation) : WrongUsage(parsed.message());
  };
  EXPECT_EQ(run({"--once"}).code, kOk);
  EXPECT_THAT(text, HasSubstr("1 VM, 1 device, 2 queues"));
  EXPECT_THAT(text, HasSubstr("web/net0 tx0 BROKEN: a descriptor of 0 bytes"));
  EXPECT_EQ(run({"web/net0", "--batch", "-n", "2", "--sort=kicks"}).code, kOk);
  EXPECT_THAT(text, HasSubstr("\n\nvhostctl top  "));
  EXPECT_EQ(run({"--json", "--count=2"}).code, kOk);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_THAT(text, HasSubstr("\"condition\":\"BROKEN\""));
  EXPECT_EQ(run({"web/net7", "--batch"}).code, kNotFound);
  EXPECT_EQ(run({"a", "b"}).code, kUsage);
  EXPECT_EQ(run({"--sort", "colour"}).code, kUsage);
  EXPECT_EQ(run({"--count", "0"}).code, kUsage);
  EXPECT_EQ(run({"--once", "--interval=0"}).code, kUsage);
}

TEST_F(VerbsTest, MetricsAreServedUntilSigterm) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  const std::string path = session_ + "/metrics.sock";
  absl::Notification listens;
  Invocation invocation = {
      .verb = "metrics", .directory = Directory(), .listen = absl::StrCat("unix:", path)};
  invocation.write = [&](absl::string_view line) {
    EXPECT_THAT(std::string(line), HasSubstr("listening on unix:"));
    listens.Notify();
    return true;
  };
  Outcome outcome{.code = kFailure};
  std::thread serving([&] { outcome = ctl::Run(invocation); });
  listens.WaitForNotification();
  const auto fd = ConnectUnix(path);
  ASSERT_TRUE(fd.ok()) << fd.status();
  constexpr char kRequest[] = "GET /metrics HTTP/1.1\r\n\r\n";
  ASSERT_EQ(send(fd->get(), kRequest, sizeof(kRequest) - 1, MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof(kRequest) - 1));
  std::string reply;
  char buffer[4096];
  pollfd ready{fd->get(), POLLIN, 0};
  while (poll(&ready, 1, 60'000) == 1) {
    const ssize_t count = recv(fd->get(), buffer, sizeof(buffer), 0);
    if (count <= 0) break;
    reply.append(buffer, static_cast<size_t>(count));
  }
  EXPECT_THAT(reply, HasSubstr("vhost_vring_kicks_total{vm=\"web\",pid=\"11\",device=\"net0\""));
  pthread_kill(serving.native_handle(), SIGTERM);
  serving.join();
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_EQ(Call({"metrics", "--listen", "example.org:80"}).code, kUsage);
  EXPECT_EQ(Call({"metrics", "--listen", "0", "--textfile", "x.prom"}).code, kUsage);
}

TEST_F(VerbsTest, MetricsGoToStdoutOrToAFileAsAWhole) {
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  const Outcome out = Call({"metrics"});
  EXPECT_EQ(out.code, kOk) << out.err;
  EXPECT_THAT(out.out, ::testing::EndsWith("# EOF\n"));
  const std::string path = session_ + "/vhost.prom";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Call({"metrics", "--textfile", path.c_str()}).code, kOk);
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms{0644});
  EXPECT_GT(std::filesystem::file_size(path), 1000u);
  const Outcome nowhere = Call({"metrics", "--textfile", "/nowhere/vhost.prom"});
  EXPECT_EQ(nowhere.code, kNotFound);
  EXPECT_THAT(nowhere.err, HasSubstr("/nowhere/vhost.prom"));
  EXPECT_EQ(Call({"metrics", "--textfile", "/tmp/x"}).code, kUsage);
}

TEST_F(VerbsTest, ABundleHasItAll) {
  Vm web("web", static_cast<int>(getpid()), {control::SampleNet()});
  Serve(web);
  const std::string path = session_ + "/bundle.json";
  const Outcome outcome = Call({"bundle", "-o", path.c_str()});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_EQ(std::filesystem::status(path).permissions(), std::filesystem::perms{0600});
  std::ifstream file(path);
  const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  for (const char* part :
       {"\"purpose\": \"net\"", "\"kick_count\": 17", "\"voluntary_ctxt_switches\""}) {
    EXPECT_THAT(json, HasSubstr(part));
  }
  EXPECT_THAT(Call({"bundle"}).out, HasSubstr("\"bundle_of\": \"vhostctl "));
}

TEST_F(VerbsTest, CompletionsKnowEveryVerbAndOption) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = Call({"completion", shell});
    EXPECT_EQ(outcome.code, kOk);
    for (const Verb& verb : Verbs()) EXPECT_THAT(outcome.out, HasSubstr(verb.name)) << shell;
    for (const Option& option : Options()) {
      EXPECT_THAT(outcome.out, HasSubstr(std::string(option.name).substr(2))) << shell;
    }
  }
  EXPECT_EQ(Call({"completion", "csh"}).code, kUsage);
}

TEST_F(VerbsTest, CompletionRunsNothingThatANameSays) {
  const std::string script = absl::StrCat(
      Call({"completion", "bash"}).out,
      "vhostctl() { printf 'VM PID DEVICE TYPE BACKEND STATE\\n'\n"
      "  printf '%s 1 net0 net kernel running\\n' '$(echo${IFS}ran)' '`echo${IFS}ran`' web; }\n"
      "COMP_WORDS=(vhostctl show '') COMP_CWORD=2\n"
      "_vhostctl\n"
      "printf '%s\\n' \"${COMPREPLY[@]}\"\n");
  const std::string path = Directory() + "/completion";
  std::ofstream(path) << script;
  FILE* const bash = popen(absl::StrCat("bash ", path, " 2>&1").c_str(), "r");
  ASSERT_NE(bash, nullptr);
  std::string said(4096, '\0');
  said.resize(fread(said.data(), 1, said.size(), bash));
  EXPECT_EQ(pclose(bash), 0);
  EXPECT_EQ(said, "web/net0\n");
}

TEST_F(VerbsTest, TheManPageKnowsEveryVerbAndOption) {
  std::ifstream file(LIBVHOST_DOCS "/man/vhostctl.1");
  const std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  ASSERT_FALSE(page.empty());
  for (const Verb& verb : Verbs()) EXPECT_THAT(page, HasSubstr(verb.name));
  for (const Option& option : Options()) {
    const std::string name = absl::StrCat("\\-\\-", std::string(option.name).substr(2));
    EXPECT_THAT(page, HasSubstr(name));
  }
}

TEST_F(VerbsTest, AsksAllProcessesAtTheSameTime) {
  // Each of these takes the request and never answers.
  std::vector<control::Listener> silent;
  for (int pid = 1; pid <= 4; ++pid) {
    auto listener =
        control::Listener::Create(*control::SocketPath(Directory(), "stuck", pid), std::nullopt);
    ASSERT_TRUE(listener.ok()) << listener.status();
    silent.push_back(*std::move(listener));
  }
  Vm web("web", 11, {control::SampleNet()});
  Serve(web);
  const absl::Time start = absl::Now();
  EXPECT_THAT(Call({"list"}).out, HasSubstr("net0"));
  EXPECT_LT(absl::Now() - start, 2 * kAnswerTimeout);
}

TEST_F(VerbsTest, CaptureWritesWhatTheProcessCarries) {
  DeviceReport device = control::SampleVsock();
  device.policy = "never";
  Vm web("web", getpid(), {device});
  web.batch = {.next = 9, .dropped = 2};
  web.batch.packets.push_back(
      {.number = 9, .queue = 1, .head = 5, .length = 60, .bytes = std::string(60, 'x')});
  Serve(web);
  const std::string file = session_ + "/out.pcapng";
  const Outcome outcome =
      Call({"capture", "web/vsock0", "--write", file.c_str(), "--packets", "1", "--snaplen", "99"});
  EXPECT_EQ(outcome.code, kOk) << outcome.err;
  EXPECT_EQ(outcome.out, absl::StrCat(file, ": 1 packet, 2 dropped\n"));
  EXPECT_THAT(web.calls,
              ::testing::ElementsAre("capture vsock0 after 0", "capture vsock0 after 9"));
  std::ifstream in(file);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(text.substr(0, 4), "\x0a\x0d\x0d\x0a");
  EXPECT_THAT(text, HasSubstr("virtqueue 1 (tx), chain head 5, 0 bytes in 0 buffers"));
  EXPECT_EQ(std::filesystem::status(file).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const Outcome json = Call({"capture", "web/vsock0", "-w", file.c_str(), "-c", "2", "--json"});
  EXPECT_EQ(json.out, absl::StrCat("{\"file\":\"", file, "\",\"packets\":2,\"dropped\":4}\n"));
}

TEST_F(VerbsTest, CaptureSaysWhatIsWrong) {
  DeviceReport net = control::SampleNet();
  net.taps.clear();
  Vm web("web", getpid(), {net});
  Serve(web);
  EXPECT_EQ(Call({"capture", "net0", "-w", "-", "--packets", "0"}).code, kUsage);
  EXPECT_EQ(Call({"capture", "net0", "-w", "-", "--snaplen", "x"}).code, kUsage);
  EXPECT_EQ(Call({"capture", "net0", "-w", "-", "--queue", "-1"}).code, kUsage);
  EXPECT_EQ(Call({"capture", "-w", "-"}).code, kUsage);
  EXPECT_EQ(Call({"capture", "net1", "-w", "-"}).code, kNotFound);
  const Outcome outcome = Call({"capture", "net0", "-w", "-"});
  EXPECT_EQ(outcome.code, kFailure);
  EXPECT_THAT(outcome.err, HasSubstr("it is on no TAP"));
}

}  // namespace
}  // namespace vhost::ctl
