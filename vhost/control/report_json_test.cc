// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/report_json.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vhost/control/sample_report.h"

namespace vhost::control {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Does not compile when a report gets one member more: that one has to go into report_fields.h,
// sample_report.h and docs/control-protocol.md, and into report_text.cc of vhostctl, before it is
// counted here.
[[maybe_unused]] void EveryMemberIsAccountedFor() {
  [[maybe_unused]] auto [w1, w2, w3, w4, w5, w6, w7, w8] = WorkerReport();
  [[maybe_unused]] auto [o1, o2] = DropReport();
  [[maybe_unused]] auto [p1, p2, p3, p4, p5, p6, p7, p8, p9, p10] = DataPathReport();
  [[maybe_unused]] auto [b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11] = BackendVringReport();
  [[maybe_unused]] auto [k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, k11, k12] = BackendReport();
  [[maybe_unused]] auto [s1, s2, s3, s4, s5, s6] = SocketsReport();
  [[maybe_unused]] auto [c1, c2, c3, c4, c5, c6, c7, c8, c9, c10] = ConnectionReport();
  [[maybe_unused]] auto [r1, r2] = RefusalReport();
  [[maybe_unused]] auto [v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12] = VringReport();
  [[maybe_unused]] auto [q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11] = PackedPositions();
  [[maybe_unused]] auto [i1, i2, i3, i4, i5, i6] = VringIndices();
  [[maybe_unused]] auto [x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11] = WiringReport();
  [[maybe_unused]] auto [t1, t2, t3, t4, t5, t6, t7, t8, t9] = TapReport();
  [[maybe_unused]] auto [f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12] = ReceiveFilterReport();
  [[maybe_unused]] auto [d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15, d16, d17,
                         d18, d19, d20, d21, d22, d23, d24, d25, d26, d27] = DeviceReport();
  [[maybe_unused]] auto [h1, h2, h3, h4, h5, h6, h7] = HandoverReport();
  [[maybe_unused]] auto [n1, n2, n3] = HandoverCounts();
  [[maybe_unused]] auto [e1, e2, e3, e4] = EventReport();
  [[maybe_unused]] auto [g1, g2, g3, g4, g5, g6, g7] = WatchdogReport();
}

TEST(ReportJson, ReadsBackAllThatItWrote) {
  for (const DeviceReport& report : {SampleNet(), SampleVsock(), DeviceReport{}}) {
    const std::string json = ToJson(report);
    const absl::StatusOr<DeviceReport> read = DeviceReportFromJson(json);
    ASSERT_TRUE(read.ok()) << read.status() << "\n" << json;
    // Every member is in the JSON (below), so equal text is an equal report.
    EXPECT_EQ(ToJson(*read), json);
  }
}

TEST(ReportJson, HasEveryMember) {
  const std::string json = ToJson(SampleNet());
  for (
      const char* member : {
          R"("name":"net0")",
          R"("type":"net")",
          R"("transport":"virtio-pci 00:01.0")",
          R"("status":15,"status_names":["ACKNOWLEDGE","DRIVER","DRIVER_OK","FEATURES_OK"])",
          R"("problem":"")",
          R"("sockets":{"open":2,"half_open":1,"established":7,"bad_clients":3,"held_bytes":4096,)"
          R"("connections":[{"type":"stream","state":"established","by_guest":true,)"
          R"("guest_port":1024,"host_port":52,"bytes_to_guest":10,"bytes_from_guest":20,)"
          R"("credit_bytes":262144,"guest_credit_bytes":258048,"held_bytes":4096}]})",
          R"("offered":{"bits":"0x20000000120000021","names":["VIRTIO_NET_F_CSUM",)",
          R"("acked":{"bits":"0x100000020","names":["VIRTIO_NET_F_MAC","VIRTIO_F_VERSION_1"]})",
          R"("policy":"prefer")",
          R"("paused":true)",
          R"("handovers":[{"time":"2026-05-01T12:00:00.123Z","from":"in-process","to":"kernel",)",
          R"("cause":"request","reason":"by hand","problem":"","stopped_us":87})",
          R"("cause":"failover","reason":"queue 1 (tx0) stands still","problem":"no threads")",
          R"("handover_counts":{"done":17,"failed":1,"failovers":2})",
          R"({"time":"2026-05-01T12:00:00.900Z","what":"stall","queue":1,"text":"tx0"})",
          R"("watchdog":{"period_ms":1000,"stall_ms":3000,"checks":60,"kicks":4,"stalls":3,)",
          R"("spins":2,"stalled":[1]})",
          R"("backend":{"kind":"kernel","node":"/dev/vhost-net","running":true)",
          R"("vhost_acked":{"bits":"0x100000000","names":["VIRTIO_F_VERSION_1"]})",
          R"("memory_updates":2,"max_memory_regions":64,"io_engine":"syscall",)"
          R"("io_engine_reason":"asked for")",
          R"({"queue":0,"vhost_fd":20,"vhost_index":0,"kick_fd":12,"call_fd":13,"err_fd":21,)"
          R"("errors":0,"last_avail":65535,"busyloop_us":50,"data_path":null,"problem":""})",
          R"("call_fd":null,"err_fd":22,"errors":3,"last_avail":null,"busyloop_us":null,)"
          R"("data_path":{"packets":1000,"bytes":64000,"merged":10,"cut":1,"kicks":40,"calls":30,)"
          R"("suppressed_calls":20,"wake_ups":50,"polls":400,)"
          R"("drops":[{"reason":"bad-header","packets":2},{"reason":"refused","packets":1}]},)"
          R"("problem":"a descriptor of 0 bytes"})",
          R"({"tid":4321,"name":"vhost-4320","queues":[0,1],"cpu_time_ns":1234567890,)"
          R"("affinity":"0-1","nice":0,"cgroup":"/vm.slice","unknown_because":""})",
          R"("cpu_time_ns":null,"affinity":null,"nice":null,"cgroup":null,)"
          R"("unknown_because":"/proc/4322: ENOENT)",
          R"("refusals":[{"backend":"vhost-user","reason":"/run/vu.sock: connect: ENOENT"}])",
          R"({"queue":0,"role":"rx0","served_by":"kernel","enabled":true,"active":true,)"
          R"("max_size":1024,"setup":{"size":256,"desc":"0x10000","driver":"0x11000",)"
          R"("device":"0x12000"},"indices":{"avail":4,"used":65530,"in_flight":10,)"
          R"("used_event":65530,"avail_event":3,"avail_flags":0,"used_flags":1},)"
          R"("positions":null,"kick_fd":12,"call_fd":13,"kick_count":17})",
          R"("indices":null,"positions":{"avail":5,"avail_wrap":true,"used":250,"used_wrap":false,)"
          R"("taken":11,"waiting":true,"returned":123456,"driver_event":32773,"driver_flags":2,)"
          R"("device_event":5,"device_flags":1})",
          R"("kick_count":null)",
          R"({"start":"0x0","size":"0xc0000000","host":"0x7f0000000000","memfd":7,)"
          R"("memfd_offset":"0x0"})",
          R"("memfd":null)",
          R"({"what":"msix 1","how":"irqfd","address":"0xfee01000","data":"0x4021","gsi":25,)"
          R"("event_fd":13,"masked":true,"pending":true,"queue":0,"exits":null,"problem":""})",
          R"({"name":"tap0","queues":2,"active_queues":1,"vnet_header":true,"header_bytes":12,)"
          R"("offloads":["CSUM","TSO4"],"link_up":true,"mtu":1500,"sndbuf_bytes":1048576})",
          R"("guest_cid":null,"mac":"52:54:00:12:34:56","mtu":1500,"active_queue_pairs":1,)"
          R"("link_up":true,"receive_filter":{"promiscuous":false,"all_multicast":true,)"
          R"("all_unicast":false,"no_multicast":false,"no_unicast":false,"no_broadcast":false,)"
          R"("unicast_overflow":false,"multicast_overflow":true,)"
          R"("unicast":["52:54:00:00:00:07"],"multicast":["33:33:00:00:00:01"],"vlans":[0,5],)"
          R"("applied_by":"tap"},"resets":1,"starts":2})",
      }) {
    EXPECT_THAT(json, HasSubstr(member));
  }
}

TEST(ReportJson, IsOneLineOfValidTextWhateverNamesAre) {
  DeviceReport report = SampleVsock();
  report.problem = "a\nb\xff\x1b";
  const std::string json = ToJson(report);
  EXPECT_THAT(json, Not(HasSubstr("\n")));
  EXPECT_THAT(json, Not(HasSubstr("\xff")));
  EXPECT_THAT(json, HasSubstr(R"(a\nb)"));
}

TEST(ReportJson, NamesTheMemberThatIsWrong) {
  struct Case {
    const char* from;
    const char* to;
    const char* message;
  };
  for (const Case& c : {
           Case{R"("name":"net0")", R"("name":7)", "name: expected a string"},
           Case{R"("type":"net")", R"("type":"toaster")", "type: expected a known name"},
           Case{R"("status":15)", R"("status":256)", "status: expected a number of up to 8 bits"},
           Case{R"("status":15)", R"("status":-1)", "status: expected a number of up to 8 bits"},
           Case{R"("status":15)", R"("status":1.5)", "status: expected a whole number"},
           Case{R"("bits":"0x100000020")", R"("bits":"32")", "acked: expected bits in hexa"},
           Case{R"("kind":"kernel")", R"("kind":"magic")", "backend.kind: expected a known name"},
           Case{R"("errors":3)", R"("errors":"3")", "backend.vrings[1].errors: expected a whole"},
           Case{R"("active":false)", R"("active":0)", "vrings[2].active: expected true or false"},
           Case{R"("desc":"0x20000")", R"("desc":"0x2000g")",
                "vrings[1].setup.desc: expected a hex"},
           Case{R"("desc":"0x20000")", R"("desc":"0x10000000000000000")",
                "vrings[1].setup.desc: expected a hex"},
           Case{R"("data":"0x4021")", R"("data":"0x100000000")",
                "wiring[1].data: expected a small"},
           Case{R"("queues":[0,1])", R"("queues":{})",
                "backend.workers[0].queues: expected a list"},
           Case{R"("queues":[0,1])", R"("queues":[0,[]])", "workers[0].queues: expected a whole"},
           Case{R"("indices":null)", R"("indices":[])", "vrings[1].indices: expected an object"},
       }) {
    const std::string json = ToJson(SampleNet());
    const std::string broken = absl::StrReplaceAll(json, {{c.from, c.to}});
    ASSERT_NE(json, broken) << c.from;
    const absl::Status status = DeviceReportFromJson(broken).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
  for (const char* json : {"", "[", "[]", "null", "7", "\"x\"", "{\"a\":1", "{} x"}) {
    EXPECT_FALSE(DeviceReportFromJson(json).ok()) << json;
  }
  EXPECT_FALSE(DeviceReportFromJson(std::string(1 << 20, '[')).ok());
}

TEST(ReportJson, PassesOverWhatAYoungerWriterAdds) {
  const auto report =
      DeviceReportFromJson(R"({"name":"net7","mood":{"is":["good"]},"vrings":[{"queue":3}]})");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->name, "net7");
  EXPECT_EQ(report->vrings[0].queue, 3);
  EXPECT_FALSE(report->backend.has_value());
}

TEST(ReportJson, SummarisesADevice) {
  const DeviceSummary summary = Summarise(SampleNet());
  EXPECT_EQ(
      ToJson(summary),
      R"({"name":"net0","type":"net","transport":"virtio-pci 00:01.0","status":15,)"
      R"("status_names":["ACKNOWLEDGE","DRIVER","DRIVER_OK","FEATURES_OK"],)"
      R"("policy":"prefer","backend":"kernel","running":true,"paused":true,"problem":"",)"
      R"("queues":3,"active_queues":2,"taps":["tap0"],"guest_cid":null,"worker_tids":[4321,4322]})");
  const auto read = DeviceSummaryFromJson(ToJson(summary));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(ToJson(*read), ToJson(summary));
  EXPECT_THAT(ToJson(Summarise(SampleVsock())), HasSubstr(R"("backend":null)"));
}

TEST(ReportJson, CountsWhatIsInFlightAcrossTheWrapOfTheIndices) {
  EXPECT_EQ(InFlight({.avail = 2, .used = 65534}), 4);
  EXPECT_EQ(InFlight({.avail = 7, .used = 7}), 0);
}

TEST(ReportJson, NamesStatusBits) {
  EXPECT_THAT(StatusNames(0), ElementsAre());
  EXPECT_THAT(StatusNames(0xd1), ElementsAre("ACKNOWLEDGE", "bit 4", "NEEDS_RESET", "FAILED"));
}

}  // namespace
}  // namespace vhost::control
