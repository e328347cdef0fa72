// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/protocol.h"

#include <string>

#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/commands.h"
#include "vhost/control/sample_report.h"

namespace vhost::control {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class TwoDevices final : public Subject {
 public:
  ProcessInfo Process() const override { return {"demo", 1234, "0.1.0"}; }
  std::vector<DeviceReport> Describe() const override { return {SampleNet(), SampleVsock()}; }
  absl::StatusOr<DeviceReport> Describe(absl::string_view device) const override {
    if (device == "net0") return SampleNet();
    return absl::NotFoundError("no device of that name");
  }
  absl::StatusOr<HandoverReport> Handover(absl::string_view device, BackendKind to,
                                          absl::string_view reason) override {
    if (device != "net0") return absl::NotFoundError("no device of that name");
    return HandoverReport{.to = to, .reason = std::string(reason), .stopped_us = 5};
  }
  absl::Status Pause(absl::string_view, absl::string_view) override { return absl::OkStatus(); }
  absl::Status Resume(absl::string_view) override {
    return absl::ResourceExhaustedError("no memory to go on");
  }
  absl::StatusOr<CaptureBatch> Capture(absl::string_view device,
                                       const CaptureRequest& request) override {
    if (device != "vsock0") return absl::FailedPreconditionError("capture on its TAP");
    CaptureBatch batch = {.next = request.after.value_or(0) + 1};
    batch.packets.push_back({.number = batch.next, .length = request.snaplen});
    return batch;
  }
};

std::string Ask(absl::string_view line) {
  TwoDevices devices;
  return Answer(devices, line).line;
}

TEST(Protocol, HandoverPauseAndResume) {
  EXPECT_THAT(
      Ask(R"({"version":1,"command":"handover","device":"net0","to":"in-process","reason":"r"})"),
      HasSubstr(R"("device":"net0","handover":{"time":"","from":"kernel","to":"in-process",)"
                R"("cause":"request","reason":"r","problem":"","stopped_us":5})"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"handover","to":"kernel"})"),
              HasSubstr("of which device?"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"handover","device":"net0"})"),
              HasSubstr("must be kernel, in-process"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"handover","device":"net0","to":7})"),
              HasSubstr("\\\"to\\\" must be a string"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"pause","device":"net0"})"),
              HasSubstr(R"("device":"net0","paused":true)"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"resume","device":"net0"})"),
              HasSubstr("RESOURCE_EXHAUSTED"));
}

TEST(Protocol, Capture) {
  EXPECT_THAT(Ask(R"({"version":1,"command":"capture","device":"vsock0","after":7,"snaplen":64})"),
              HasSubstr(R"("device":"vsock0","next":8,"dropped":0,"more":false,"packets":[{)"
                        R"("number":8,"seconds":0,"nanoseconds":0,"queue":0,"head":0,)"
                        R"("chain_bytes":0,"buffers":0,"length":64,"data":""}])"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"capture","device":"vsock0"})"),
              HasSubstr("\"next\":1,"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"capture"})"), HasSubstr("of which device?"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"capture","device":"net0"})"), HasSubstr("its TAP"));
  for (const char* wrong : {R"("after":-1)", R"("after":"1")", R"("after":1.5)",
                            R"("snaplen":4294967296)", R"("snaplen":[])"}) {
    EXPECT_THAT(
        Ask(absl::StrCat(R"({"version":1,"command":"capture","device":"vsock0",)", wrong, "}")),
        HasSubstr("must be a number from 0 to"))
        << wrong;
  }
  const Request request = {.command = "capture", .device = "v", .after = UINT64_MAX, .snaplen = 9};
  std::string id;
  const auto read = ParseRequest(RequestLine(request), &id);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->after, UINT64_MAX);
  EXPECT_EQ(read->snaplen, 9u);
}

TEST(Protocol, PlugAndUnplugAreForVmmsThatCan) {
  EXPECT_THAT(Ask(R"({"version":1,"command":"plug","description":"virtio-net-pci"})"),
              HasSubstr("UNIMPLEMENTED"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"plug"})"), HasSubstr("plug what?"));
  EXPECT_THAT(Ask(R"({"version":1,"command":"unplug"})"), HasSubstr("of which device?"));
  class Plugging final : public Subject {
   public:
    ProcessInfo Process() const override { return {"demo", 1234, "0.1.0"}; }
    std::vector<DeviceReport> Describe() const override { return {}; }
    absl::StatusOr<DeviceReport> Describe(absl::string_view) const override {
      return absl::NotFoundError("no device");
    }
    absl::StatusOr<HandoverReport> Handover(absl::string_view, BackendKind,
                                            absl::string_view) override {
      return absl::NotFoundError("no device");
    }
    absl::Status Pause(absl::string_view, absl::string_view) override { return absl::OkStatus(); }
    absl::Status Resume(absl::string_view) override { return absl::OkStatus(); }
    absl::StatusOr<std::string> Plug(absl::string_view description) override {
      described = std::string(description);
      return "net1";
    }
    absl::Status Unplug(absl::string_view device) override {
      return device == "net1" ? absl::OkStatus() : absl::NotFoundError("no device");
    }
    absl::StatusOr<CaptureBatch> Capture(absl::string_view, const CaptureRequest&) override {
      return absl::NotFoundError("no device");
    }
    std::string described;
  };
  Plugging subject;
  const Request plug = {.command = "plug", .description = "virtio-net-pci,id=net1"};
  EXPECT_THAT(Answer(subject, absl::StripSuffix(RequestLine(plug), "\n")).line,
              HasSubstr(R"("device":"net1"})"));
  EXPECT_EQ(subject.described, plug.description);
  EXPECT_THAT(Answer(subject, R"({"version":1,"command":"unplug","device":"net1"})").line,
              HasSubstr(R"("ok":true)"));
  EXPECT_THAT(Answer(subject, R"({"version":1,"command":"unplug","device":"net2"})").line,
              HasSubstr("NOT_FOUND"));
}

TEST(Protocol, ARequestReadsBackAsItWasWritten) {
  const Request request = {.id = "7", .command = "show", .device = "net0"};
  const std::string line = RequestLine(request);
  EXPECT_EQ(line, "{\"version\":1,\"id\":7,\"command\":\"show\",\"device\":\"net0\"}\n");
  std::string id;
  const auto read = ParseRequest(line, &id);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(id, "7");
  EXPECT_EQ(read->command, "show");
  EXPECT_EQ(read->device, "net0");
}

TEST(Protocol, AnErrorKeepsItsCodeItsTextAndItsErrno) {
  const absl::Status status = kernel_abi::MakeSystemError(
      {.error = EACCES, .subject = "/dev/vhost-net", .call = "open"}, "add the user to group kvm");
  const std::string line = ErrorLine("\"a\"", status);
  EXPECT_THAT(
      line, StartsWith(R"({"version":1,"id":"a","ok":false,"error":{"code":"PERMISSION_DENIED")"));
  EXPECT_THAT(line, HasSubstr(R"("errno":13)"));
  const absl::Status read = ParseReply(line).status();
  EXPECT_EQ(read.code(), status.code());
  EXPECT_EQ(read.message(), status.message());
}

TEST(Protocol, RefusesAReplyThatIsDeeperThanAnyOfOurs) {
  const std::string deep = R"({"version":1,"id":1,"ok":true,"result":)" + std::string(1 << 20, '[');
  EXPECT_THAT(std::string(ParseReply(deep).status().message()), HasSubstr("levels of JSON"));
  const std::string brackets =
      R"({"version":1,"id":1,"ok":true,"result":["\"[[)" + std::string(1000, '[') + R"("]})";
  EXPECT_TRUE(ParseReply(brackets).ok()) << ParseReply(brackets).status();
}

TEST(Protocol, TheKernelKnowsBetterWhoAnswers) {
  const std::string line = R"({"ok":true,"result":{"process":{"vm":"a","pid":1},"devices":[]}})";
  const auto result = ParseReply(line, 42);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, R"({"process":{"vm":"a","pid":42},"devices":[]})");
  EXPECT_TRUE(ParseReply(R"({"ok":true,"result":[1]})", 42).ok());
}

TEST(Protocol, RefusesWhatIsNoRequest) {
  struct Case {
    const char* line;
    const char* message;
  };
  for (const Case& c : {
           Case{"", "not JSON"},
           Case{"hello", "not JSON"},
           Case{"{\"version\":1", "not JSON"},
           Case{"[]", "must be a JSON object"},
           Case{"{}", "\\\"version\\\" must be a number"},
           Case{R"({"version":"1"})", "\\\"version\\\" must be a number"},
           Case{R"({"version":2,"command":"list"})", "version 2 is not spoken here"},
           Case{R"({"version":99999999999999999999,"command":"list"})", "must be a number"},
           Case{R"({"version":1})", "no \\\"command\\\""},
           Case{R"({"version":1,"command":7})", "\\\"command\\\" must be a string"},
           Case{R"({"version":1,"command":"show","device":[]})", "\\\"device\\\" must be a string"},
           Case{R"({"version":1,"command":"dance"})",
                "no command \\\"dance\\\" here; there are list, show"},
           Case{R"({"version":1,"id":{},"command":"list"})", "\\\"id\\\" must be"},
           Case{"{\"version\":1,\"command\":\"\xff\"}", "not JSON"},
       }) {
    const std::string reply = Ask(c.line);
    EXPECT_THAT(reply, HasSubstr("\"ok\":false")) << c.line;
    EXPECT_THAT(reply, HasSubstr(c.message)) << c.line;
    EXPECT_EQ(reply.back(), '\n');
  }
  EXPECT_THAT(Ask(std::string(4000, '[')), HasSubstr("not JSON"));
}

TEST(Protocol, AnErrorBearsTheIdOfItsRequest) {
  EXPECT_THAT(Ask(R"({"version":2,"id":"x y","command":"list"})"),
              StartsWith(R"({"version":1,"id":"x y","ok":false)"));
  EXPECT_THAT(Ask("nonsense"), StartsWith(R"({"version":1,"id":null,"ok":false)"));
}

TEST(Protocol, ListTellsOfEveryDevice) {
  const auto result = ParseReply(Ask(R"({"version":1,"id":1,"command":"list"})"));
  ASSERT_TRUE(result.ok()) << result.status();
  const auto process = ProcessInfoFromJson(*Member(*result, "process"));
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(process->vm, "demo");
  EXPECT_EQ(process->pid, 1234);
  EXPECT_EQ(Elements(*Member(*result, "devices"))->size(), 2);
}

TEST(Protocol, ShowTellsAllOfOneDeviceOrOfEach) {
  const auto one = ParseReply(Ask(R"({"version":1,"command":"show","device":"net0"})"));
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(Elements(*Member(*one, "devices"))->size(), 1);
  EXPECT_THAT(*one, HasSubstr("\"in_flight\":10"));
  const auto all = ParseReply(Ask(R"({"version":1,"command":"show"})"));
  EXPECT_EQ(Elements(*Member(*all, "devices"))->size(), 2);
  const auto none = ParseReply(Ask(R"({"version":1,"command":"show","device":"net9"})"));
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
}

TEST(Protocol, RefusesWhatIsNoReply) {
  for (const char* line : {"", "7", "{}", R"({"ok":1})", R"({"ok":true})", R"({"ok":false})",
                           R"({"ok":false,"error":{"code":"OK","message":""}})",
                           R"({"ok":false,"error":{"code":5,"message":""}})"}) {
    EXPECT_TRUE(absl::IsDataLoss(ParseReply(line).status())) << line;
  }
}

}  // namespace
}  // namespace vhost::control
