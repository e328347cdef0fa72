// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/capture_json.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace vhost::control {
namespace {

CaptureBatch Sample() {
  CaptureBatch batch = {.next = 12, .dropped = 3, .more = true};
  batch.packets.push_back({.number = 12,
                           .time_ns = 1'700'000'000'000'000'009,
                           .queue = 1,
                           .head = 65535,
                           .chain_bytes = 4140,
                           .buffers = 2,
                           .length = 100,
                           .bytes = std::string("\0\xff\"\n", 4)});
  return batch;
}

TEST(CaptureJsonTest, ABatchComesBackAsItWas) {
  const std::string json = absl::StrCat("{\"device\":\"v\",", CaptureMembers(Sample()), "}");
  const auto batch = CaptureFromJson(json);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->next, 12u);
  EXPECT_EQ(batch->dropped, 3u);
  EXPECT_TRUE(batch->more);
  ASSERT_EQ(batch->packets.size(), 1u);
  const CapturedPacket& packet = batch->packets[0];
  EXPECT_EQ(packet.number, 12u);
  EXPECT_EQ(packet.time_ns, 1'700'000'000'000'000'009);
  EXPECT_EQ(packet.queue, 1);
  EXPECT_EQ(packet.head, 65535);
  EXPECT_EQ(packet.chain_bytes, 4140u);
  EXPECT_EQ(packet.buffers, 2u);
  EXPECT_EQ(packet.length, 100u);
  EXPECT_EQ(packet.bytes, std::string("\0\xff\"\n", 4));
}

TEST(CaptureJsonTest, WhatCannotBeIsRefused) {
  const std::string good = absl::StrCat("{", CaptureMembers(Sample()), "}");
  ASSERT_TRUE(CaptureFromJson(good).ok());
  const std::pair<const char*, const char*> wrongs[] = {
      {"\"next\":12", "\"next\":-1"},
      {"\"next\":12", "\"next\":\"12\""},
      {"\"head\":65535", "\"head\":65536"},
      {"\"queue\":1", "\"queue\":4294967296"},
      {"\"nanoseconds\":9", "\"nanoseconds\":1000000000"},
      {"\"seconds\":1700000000", "\"seconds\":18446744073709551615"},
      {"\"length\":100", "\"length\":3"},  // shorter than the data
      {"\"data\":\"", "\"data\":\"*"},
      {"\"more\":true", "\"more\":1"},
      {"\"packets\":[", "\"packets\":[7,"},
  };
  for (const auto& [from, to] : wrongs) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    ASSERT_NE(bad, good) << from;
    EXPECT_EQ(CaptureFromJson(bad).status().code(), absl::StatusCode::kInvalidArgument) << to;
  }
  EXPECT_FALSE(CaptureFromJson("[]").ok());
  EXPECT_FALSE(CaptureFromJson("").ok());
}

}  // namespace
}  // namespace vhost::control
