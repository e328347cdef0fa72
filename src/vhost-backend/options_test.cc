// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhost-backend/options.h"

#include "gtest/gtest.h"

namespace vhost_backend {
namespace {

absl::StatusOr<std::variant<Options, Text>> Parse(std::vector<const char*> arguments) {
  return ParseOptions(arguments);
}

Options Good(std::vector<const char*> arguments) {
  const auto parsed = Parse(std::move(arguments));
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? std::get<Options>(*parsed) : Options();
}

TEST(BackendOptionsTest, BothDevicesAreDescribedInEitherWay) {
  const Options net = Good({"net", "--socket", "/run/net", "--tap=tap0", "--queues", "4"});
  EXPECT_EQ(net.type, DeviceType::kNet);
  EXPECT_EQ(net.socket, "/run/net");
  EXPECT_EQ(net.tap, "tap0");
  EXPECT_EQ(net.queues, 4);
  EXPECT_TRUE(net.sandbox);
  const Options fds = Good({"net", "--fd=3", "--tap-fds", "4:5:6", "--packed", "--verbose"});
  EXPECT_EQ(fds.fd, 3);
  EXPECT_EQ(fds.tap_fds, (std::vector{4, 5, 6}));
  EXPECT_EQ(fds.queues, 3);
  EXPECT_TRUE(fds.packed && fds.verbose);
  const Options vsock =
      Good({"vsock", "--socket-path=/run/v", "--guest-cid", "42", "--uds", "/run/uds"});
  EXPECT_EQ(vsock.type, DeviceType::kVsock);
  EXPECT_EQ(vsock.guest_cid, 42U);
  EXPECT_EQ(vsock.uds, "/run/uds");
}

TEST(BackendOptionsTest, HelpAndCapabilitiesComeBeforeAllElse) {
  EXPECT_NE(std::get<Text>(*Parse({"--help"})).text.find("Usage"), std::string::npos);
  EXPECT_NE(std::get<Text>(*Parse({"net", "--nonsense", "--help"})).text.find("Usage"),
            std::string::npos);
  EXPECT_EQ(std::get<Text>(*Parse({"net", "--print-capabilities"})).text,
            "{\n  \"type\": \"net\",\n  \"features\": []\n}\n");
}

TEST(BackendOptionsTest, WhatIsWrongIsNamed) {
  const auto refused = [](std::vector<const char*> arguments, const char* what) {
    const auto parsed = Parse(std::move(arguments));
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(parsed.status().message().find(what), std::string::npos) << parsed.status();
  };
  refused({}, "net or vsock");
  refused({"blk"}, "blk");
  refused({"net", "--tap", "t"}, "--socket");
  refused({"net", "--socket", "s"}, "--tap");
  refused({"net", "--socket", "s", "--fd", "3", "--tap", "t"}, "either");
  refused({"net", "--socket", "s", "--tap", "t", "--tap-fds", "3"}, "either");
  refused({"net", "--socket", "s", "--tap", "t", "--queues", "0"}, "--queues 0");
  refused({"net", "--socket", "s", "--tap", "t", "--guest-cid", "3"}, "--guest-cid");
  refused({"net", "--fd", "x", "--tap", "t"}, "--fd x");
  refused({"net", "--socket"}, "--socket");
  refused({"net", "stray"}, "stray");
  refused({"net", "--socket", "s", "--tap-fds", "3:"}, "--tap-fds");
  refused({"net", "--socket", "s", "--tap", "t", "--group", "no-such-group-here"}, "group");
  refused({"vsock", "--socket", "s", "--uds", "u"}, "--guest-cid");
  refused({"vsock", "--socket", "s", "--guest-cid", "3"}, "--uds");
  refused({"vsock", "--socket", "s", "--guest-cid", "2", "--uds", "u"}, "--guest-cid 2");
}

}  // namespace
}  // namespace vhost_backend
