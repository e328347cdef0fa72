// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The board, how it is looked at, and the screen that comes of it, at every size.
#include "src/vhostctl/top/frame.h"

#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "src/vhostctl/rates_text.h"
#include "src/vhostctl/top/table_layout.h"
#include "vhost/control/sample_report.h"

namespace vhost::ctl::top {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

Sample At(int seconds, std::vector<DeviceReport> devices, const std::string& vm = "web") {
  const std::chrono::steady_clock::time_point when{std::chrono::seconds(seconds)};
  return {.gathered = {.processes = {{.socket = "/run/web.sock",
                                      .when = when,
                                      .process = {.vm = vm, .pid = 11},
                                      .devices = std::move(devices)}}},
          .foreign = {{.pid = 100,
                       .command = "qemu-system-x86",
                       .vm = "old",
                       .devices = {{.fd = 21, .node = "/dev/vhost-net", .type = "net"}},
                       .workers = {{.tid = 104,
                                    .cpu_time_ns = static_cast<uint64_t>(seconds) * 250'000'000}}}},
          .foreign_when = when,
          .when = absl::UnixEpoch() + absl::Seconds(seconds)};
}

// Whose first queue has given back `used` chains, and whose second one stands still.
DeviceReport Device(uint16_t used, const std::string& name = "net0") {
  DeviceReport device = control::SampleNet();
  device.name = name;
  device.paused = false;
  device.vrings[0].indices = VringIndices{.avail = static_cast<uint16_t>(used + 10), .used = used};
  device.vrings[1].positions.reset();
  device.vrings[1].indices = VringIndices{.avail = 9, .used = 5};
  device.backend->vrings.clear();
  device.events = {{.what = "stall", .queue = 1, .text = "tx0: the kernel backend stands still"}};
  return device;
}

Board BoardOf(int devices = 1) {
  BoardMaker maker("");
  std::vector<DeviceReport> before;
  std::vector<DeviceReport> after;
  for (int i = 0; i < devices; ++i) {
    before.push_back(Device(0, absl::StrCat("net", i)));
    after.push_back(Device(static_cast<uint16_t>(1000 + i), absl::StrCat("net", i)));
    if (i > 0) after.back().watchdog.reset();
    if (i > 0) after.back().vrings[1].indices->used = 9;
  }
  maker.Next(At(1, before));
  return maker.Next(At(2, after));
}

std::string TextOf(const Frame& frame) {
  return absl::StrJoin(frame, "\n",
                       [](std::string* out, const Line& line) { absl::StrAppend(out, line.text); });
}

std::vector<std::string> Names(const std::vector<Row>& rows) {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(absl::StrCat(row.rates.device, " ", row.rates.role));
  return names;
}

TEST(TopBoard, HasARowForEachQueueAndForWhatHasNone) {
  BoardMaker maker("");
  DeviceReport asleep = control::SampleVsock();
  EXPECT_THAT(maker.Next(At(1, {Device(0), asleep})).rows, IsEmpty());
  const Board board = maker.Next(At(3, {Device(100), asleep}));
  EXPECT_EQ(board.vms, 2);
  EXPECT_EQ(board.devices, 3);
  EXPECT_THAT(Names(board.rows), ElementsAre("fd21 ?", "net0 rx0", "net0 tx0", "vsock0 -"));
  EXPECT_EQ(board.rows[0].rates.cpu, 0.25);
  EXPECT_EQ(board.rows[0].state, "foreign");
  EXPECT_EQ(board.rows[1].rates.chains, 50);
  EXPECT_EQ(board.rows[1].badness, 0);
  EXPECT_EQ(board.rows[1].reason, "not vhost-user: /run/vu.sock: connect: ENOENT");
  EXPECT_EQ(board.rows[2].state, "STALLED");
  EXPECT_EQ(board.rows[2].cause, "tx0: the kernel backend stands still");
  EXPECT_EQ(board.rows[3].state, "NEEDS RESET");
  EXPECT_THAT(board.rows[3].cause, HasSubstr("outside of memory"));
}

TEST(TopBoard, ShowsWhatIsMeantAlone) {
  BoardMaker maker("web/net0");
  maker.Next(At(1, {Device(0), Device(0, "net1")}));
  EXPECT_THAT(Names(maker.Next(At(2, {Device(5), Device(5, "net1")})).rows),
              ElementsAre("net0 rx0", "net0 tx0"));
}

TEST(TopBoard, RemembersWhatARowDidAndForgetsRowsThatAreGone) {
  BoardMaker maker("net0");
  maker.Next(At(0, {Device(0)}));
  for (int i = 1; i <= 300; ++i) {
    const Board board = maker.Next(At(i, {Device(static_cast<uint16_t>(i * 7))}));
    ASSERT_FALSE(board.rows.empty());
    EXPECT_EQ(board.rows[0].past.back(), 7);
    EXPECT_EQ(board.rows[0].past.size(), std::min(BoardMaker::kMostPast, static_cast<size_t>(i)));
  }
  EXPECT_THAT(maker.Next(At(301, {})).rows, IsEmpty());
  maker.Next(At(302, {Device(0)}));
  EXPECT_THAT(maker.Next(At(303, {Device(1)})).rows[0].past, ElementsAre(1));
}

TEST(TopView, SortsWhatIsWorstOrLargestToTheTop) {
  const Board board = BoardOf(3);
  View view;
  EXPECT_EQ(Names(Sorted(board.rows, view))[0], "net0 tx0");  // by state
  view.sort = SortKey::kChains;
  EXPECT_EQ(Names(Sorted(board.rows, view))[0], "net2 rx0");
  OnKey('a', board.rows, 10, &view);  // the same once more
  EXPECT_TRUE(view.reversed);
  OnKey('n', board.rows, 10, &view);
  EXPECT_FALSE(view.reversed);
  EXPECT_EQ(Names(Sorted(board.rows, view)), Names(board.rows));
  for (int i = 0; i < kSortKeys; ++i) {
    SortKey key{};
    EXPECT_TRUE(FromName(Name(view.sort), &key));
    EXPECT_EQ(key, view.sort);
    EXPECT_THAT(Sorted(board.rows, view), SizeIs(board.rows.size()));
    OnKey('>', board.rows, 10, &view);
  }
  EXPECT_EQ(view.sort, SortKey::kName);
  SortKey none{};
  EXPECT_FALSE(FromName("colour", &none));
}

TEST(TopView, TheCursorStaysOnItsRowAndInView) {
  const Board board = BoardOf(20);
  View view{.sort = SortKey::kName};
  std::vector<Row> sorted = Sorted(board.rows, view);
  OnKey(kKeyUp, sorted, 5, &view);
  EXPECT_EQ(Selected(sorted, view), 0u);
  for (int i = 0; i < 7; ++i) OnKey(kKeyDown, sorted, 5, &view);
  EXPECT_EQ(Selected(sorted, view), 7u);
  Scroll(sorted, 5, &view);
  EXPECT_EQ(view.first, 3u);
  OnKey('r', sorted, 5, &view);
  const std::string key = sorted[7].key;
  sorted = Sorted(board.rows, view);
  EXPECT_EQ(sorted[Selected(sorted, view)].key, key);
  OnKey(kKeyEnd, sorted, 5, &view);
  Scroll(sorted, 5, &view);
  EXPECT_EQ(Selected(sorted, view), sorted.size() - 1);
  EXPECT_EQ(view.first, sorted.size() - 5);
  OnKey(kKeyPageUp, sorted, 5, &view);
  EXPECT_EQ(Selected(sorted, view), sorted.size() - 6);
  OnKey(kKeyPageDown, sorted, 5, &view);
  OnKey(kKeyHome, sorted, 5, &view);
  EXPECT_EQ(Selected(sorted, view), 0u);
  // Rows go while somebody looks.
  OnKey(kKeyEnd, sorted, 5, &view);
  sorted.resize(2);
  Scroll(sorted, 5, &view);
  EXPECT_EQ(view.first, 0u);
  sorted.clear();
  OnKey(kKeyDown, sorted, 0, &view);
  Scroll(sorted, 0, &view);
  EXPECT_EQ(view.first, 0u);
}

TEST(TopView, OtherKeys) {
  View view;
  OnKey('+', {}, 5, &view);
  EXPECT_EQ(view.interval_s, 2);
  for (int i = 0; i < 20; ++i) OnKey('-', {}, 5, &view);
  EXPECT_EQ(view.interval_s, 0.1);
  for (int i = 0; i < 20; ++i) OnKey('+', {}, 5, &view);
  EXPECT_EQ(view.interval_s, 60);
  OnKey(' ', {}, 5, &view);
  EXPECT_TRUE(view.frozen);
  OnKey('?', {}, 5, &view);
  EXPECT_TRUE(view.help);
  OnKey('x', {}, 5, &view);
  EXPECT_FALSE(view.help);
  EXPECT_EQ(view.sort, SortKey::kState);
  for (const int key : {-1, 0, 27, int{'Z'}, 0x7fffffff}) OnKey(key, {}, 5, &view);
  OnKey('q', {}, 5, &view);
  EXPECT_TRUE(view.quit);
}

TEST(TopFrame, IsAsLargeAsTheTerminalWhateverItsSize) {
  for (const int devices : {0, 1, 200}) {
    const Board board = BoardOf(devices);
    for (const bool help : {false, true}) {
      View view{.help = help, .utf8 = true};
      const std::vector<Row> sorted = Sorted(board.rows, view);
      for (const int height : {0, 1, 2, 5, 6, 9, 12, 13, 14, 24, 50, 300}) {
        for (const int width : {0, 1, 2, 8, 9, 20, 40, 79, 80, 81, 100, 132, 200, 500}) {
          Scroll(sorted, PageOf(height), &view);
          const Frame frame = Draw(board, sorted, view, width, height);
          ASSERT_EQ(frame.size(), static_cast<size_t>(height)) << width << "x" << height;
          for (const Line& line : frame) {
            ASSERT_EQ(WidthOf(line.text), static_cast<size_t>(width)) << line.text;
          }
        }
      }
    }
  }
}

TEST(TopFrame, At80By24HasWhatMatters) {
  const Board board = BoardOf(200);
  const View view;
  const std::string text = TextOf(Draw(board, Sorted(board.rows, view), view, 80, 24));
  for (const char* part :
       {"2 VMs, 201 devices, 400 queues", "1 row marked !", "web/net0 tx0 STALLED", "QUEUE", "BY",
        "DEPTH", "PKT/s", "BYTE/s", "KICK/s", "CALL/s", "SUPP", "DROP/s", "CPU%", "!web/net0",
        "process 11  kernel /dev/vhost-net", "not vhost-user: /run/vu.sock", "chains/s, up to",
        "rows 1-15 of 401", "? help"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(TopFrame, At200By50ShowsThePastAndTheCauseToo) {
  const Board board = BoardOf(1);
  const View view{.utf8 = true};
  const std::string text = TextOf(Draw(board, Sorted(board.rows, view), view, 200, 50));
  for (const char* part : {"PID", "CHAIN/s", "HISTORY", "█", "STATE",
                           "STALLED: tx0: the kernel backend stands still", "~1.0k", "foreign"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(TopFrame, TakesWhatOthersSayForPlainText) {
  BoardMaker maker("");
  DeviceReport odd = Device(0, "net\x1b[2J\n\xff");
  maker.Next(At(1, {odd}, "a\u00e9\xe2\x96\x88z"));
  const Board board = maker.Next(At(2, {odd}, "a\u00e9\xe2\x96\x88z"));
  const View view;
  const Frame frame = Draw(board, Sorted(board.rows, view), view, 120, 30);
  for (const Line& line : frame) {
    for (const char c : line.text) EXPECT_FALSE(c >= 0 && c < 0x20) << line.text;
  }
  EXPECT_THAT(TextOf(frame), HasSubstr("net?[2J?"));
}

TEST(TopFrame, TheTableForAPipeHasAllRows) {
  const Board board = BoardOf(200);
  const View view;
  const std::string table = Table(board, Sorted(board.rows, view), view, 100);
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 4 + 401);
  EXPECT_THAT(table, Not(HasSubstr(" \n")));
}

TEST(TopFrame, SparklinesShowTheLastOfIt) {
  EXPECT_EQ(Sparkline({}, 4, true), "    ");
  EXPECT_EQ(Sparkline({0, 0}, 4, true), "    ");
  EXPECT_EQ(Sparkline({0, 1, 4, 8}, 4, true), " ▁▄█");
  EXPECT_EQ(Sparkline({9, 0, 1, 4, 8}, 4, false), " .=@");
  EXPECT_EQ(Sparkline({0.001, 8}, 3, false), " .@");  // something is not nothing
  EXPECT_EQ(Sparkline({1, 2}, 0, false), "");
}

TEST(TopFrame, FitsTextsIntoColumns) {
  EXPECT_EQ(Fitted("abc", 5, true, true), "abc  ");
  EXPECT_EQ(Fitted("abc", 5, false, true), "  abc");
  EXPECT_EQ(Fitted("abcdef", 5, true, true), "abcd~");
  EXPECT_EQ(Fitted("abcde", 5, true, true), "abcde");
  EXPECT_EQ(Fitted("▁▂▃▄", 3, true, true), "▁▂~");
  EXPECT_EQ(Fitted("▁", 3, true, false), "?  ");
  EXPECT_EQ(Fitted("", 0, true, true), "");
  EXPECT_EQ(Fitted("abc", 0, true, true), "");
}

TEST(Rates, AreShortEnoughForTheirColumns) {
  for (const auto& [value, text] :
       std::initializer_list<std::pair<double, const char*>>{{0, "0"},
                                                             {0.01, "<0.1"},
                                                             {0.3, "0.3"},
                                                             {1, "1"},
                                                             {9.96, "10"},
                                                             {999.4, "999"},
                                                             {999.6, "1.0k"},
                                                             {12345, "12k"},
                                                             {999'600, "1.0M"},
                                                             {1.25e9, "1.2G"},
                                                             {-1, "0"},
                                                             {1e30, ">999P"}}) {
    EXPECT_EQ(Short(value), text) << value;
  }
}

}  // namespace
}  // namespace vhost::ctl::top
