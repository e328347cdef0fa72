// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/vsock_backlog.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace vhost::inprocess {
namespace {

void Append(VsockBacklog& backlog, std::string text) {
  const size_t half = text.size() / 2;
  const iovec pieces[] = {{text.data(), half}, {text.data() + half, text.size() - half}};
  backlog.Append(pieces);
}

std::string Front(const VsockBacklog& backlog, uint32_t bytes) {
  std::string text;
  for (const iovec& piece : backlog.Front(bytes)) {
    if (piece.iov_len > 0) text.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
  }
  return text;
}

TEST(VsockBacklog, KeepsOrderWhileItRunsRoundAndGrows) {
  std::mt19937 random(1);
  VsockBacklog backlog;
  std::string expected;
  uint8_t next = 0;
  for (int i = 0; i < 5000; ++i) {
    if (expected.size() < 20000 && random() % 2 == 0) {
      std::string text(1 + random() % 900, ' ');
      for (char& c : text) c = static_cast<char>(next++);
      Append(backlog, text);
      expected += text;
    } else if (!expected.empty()) {
      const uint32_t bytes = 1 + random() % static_cast<uint32_t>(expected.size());
      ASSERT_EQ(Front(backlog, bytes), expected.substr(0, bytes));
      backlog.Consume(bytes);
      expected.erase(0, bytes);
    }
    ASSERT_EQ(backlog.bytes(), expected.size());
    ASSERT_EQ(backlog.empty(), expected.empty());
  }
}

TEST(VsockBacklog, KeepsMessagesApart) {
  VsockBacklog backlog;
  Append(backlog, "one");
  EXPECT_FALSE(backlog.has_message());
  EXPECT_EQ(backlog.open_bytes(), 3u);
  backlog.EndMessage();
  Append(backlog, "sec");
  Append(backlog, "ond");
  backlog.EndMessage();
  Append(backlog, "thi");
  ASSERT_TRUE(backlog.has_message());
  EXPECT_EQ(backlog.first_message_bytes(), 3u);
  EXPECT_EQ(Front(backlog, 3), "one");
  backlog.Consume(3);
  EXPECT_EQ(backlog.first_message_bytes(), 6u);
  EXPECT_EQ(Front(backlog, 6), "second");
  backlog.Consume(6);
  EXPECT_FALSE(backlog.has_message());
  EXPECT_EQ(backlog.open_bytes(), 3u);
  Append(backlog, "rd");
  backlog.EndMessage();
  EXPECT_EQ(Front(backlog, backlog.first_message_bytes()), "third");
  backlog.Clear();
  EXPECT_TRUE(backlog.empty());
  EXPECT_FALSE(backlog.has_message());
}

}  // namespace
}  // namespace vhost::inprocess
