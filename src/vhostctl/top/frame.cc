// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/frame.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "src/vhostctl/rates_text.h"
#include "src/vhostctl/top/table_layout.h"

namespace vhost::ctl::top {
namespace {

constexpr int kHeadLines = 4;    // summary, totals, what is the matter, titles
constexpr int kDetailLines = 4;  // of the row that the cursor is on
constexpr int kFootLines = 1;
// Below this the detail would leave no room for rows.
constexpr int kHeightForDetail = kHeadLines + kDetailLines + kFootLines + 4;

std::string Rate(const std::optional<double>& value) {
  return value.has_value() ? Short(*value) : "-";
}

// What the columns show of a row.
std::string Cell(const Row& row, ColumnId column, size_t width, bool utf8) {
  const QueueRates& rates = row.rates;
  switch (column) {
    case ColumnId::kName:
      return absl::StrCat(rates.vm, "/", rates.device);
    case ColumnId::kPid:
      return absl::StrCat(rates.pid);
    case ColumnId::kQueue:
      return rates.role;
    case ColumnId::kServedBy:
      return rates.served_by == "in-process" ? "inproc" : rates.served_by;
    case ColumnId::kDepth:
      return rates.depth.has_value() ? absl::StrCat(*rates.depth) : "-";
    case ColumnId::kChains:
      return Rate(rates.chains);
    case ColumnId::kPackets:
      // What the kernel serves it does not count; a chain is mostly a packet.
      if (rates.packets.has_value() || !rates.chains.has_value()) return Rate(rates.packets);
      return absl::StrCat("~", Short(*rates.chains));
    case ColumnId::kBytes:
      return Rate(rates.bytes);
    case ColumnId::kKicks:
      return Rate(rates.kicks);
    case ColumnId::kCalls:
      return Rate(rates.calls);
    case ColumnId::kSuppressed:
      return rates.suppressed.has_value() ? absl::StrFormat("%.0f%%", *rates.suppressed * 100)
                                          : "-";
    case ColumnId::kDrops:
      return Rate(rates.drops);
    case ColumnId::kCpu:
      return rates.cpu.has_value() ? absl::StrFormat("%.0f", *rates.cpu * 100) : "-";
    case ColumnId::kHistory:
      return Sparkline(row.past, width, utf8);
    case ColumnId::kState:
      return row.cause.empty() || row.state == "foreign" ? row.state
                                                         : absl::StrCat(row.state, ": ", row.cause);
  }
  return "";
}

std::string RowText(const Row& row, const TableLayout& layout, bool utf8) {
  std::string text;
  for (const TableLayout::Column& column : layout.columns) {
    const std::string cell = Cell(row, column.id, column.width, utf8);
    absl::StrAppend(&text, text.empty() ? (row.badness > 0 ? "!" : " ") : " ",
                    Fitted(cell, column.width, column.is_left, utf8));
  }
  return text;
}

std::string Titles(const TableLayout& layout, const View& view) {
  std::string text;
  for (const TableLayout::Column& column : layout.columns) {
    std::string title = TitleOf(column.id);
    // Where there is room, the one that it is sorted by is marked.
    if (IsSortedBy(column.id, view.sort) && title.size() < column.width) {
      title.push_back(view.reversed ? '^' : 'v');
    }
    absl::StrAppend(&text, " ", Fitted(title, column.width, column.is_left, false));
  }
  return text;
}

std::string Summary(const Board& board, const std::vector<Row>& sorted, const View& view) {
  const auto queues = std::count_if(sorted.begin(), sorted.end(),
                                    [](const Row& row) { return row.rates.queue >= 0; });
  return absl::StrCat(
      "vhostctl top  ", absl::FormatTime("%H:%M:%S", board.when, absl::LocalTimeZone()),
      view.frozen ? "  FROZEN" : absl::StrFormat("  every %g s", view.interval_s), "  ", board.vms,
      board.vms == 1 ? " VM, " : " VMs, ", board.devices,
      board.devices == 1 ? " device, " : " devices, ", queues, queues == 1 ? " queue" : " queues",
      "  by ", Name(view.sort), view.reversed ? " reversed" : "");
}

std::string Totals(const std::vector<Row>& sorted) {
  double packets = 0;
  double bytes = 0;
  double kicks = 0;
  double calls = 0;
  double drops = 0;
  for (const Row& row : sorted) {
    packets += Work(row.rates).value_or(0);
    bytes += row.rates.bytes.value_or(0);
    kicks += row.rates.kicks.value_or(0);
    calls += row.rates.calls.value_or(0);
    drops += row.rates.drops.value_or(0);
  }
  return absl::StrCat("all, a second: ", Short(packets), " packets  ", Short(bytes), " bytes  ",
                      Short(kicks), " kicks  ", Short(calls), " calls  ", Short(drops), " drops");
}

// The worst of all, by name: it may be on no line that is shown.
Line Trouble(const Board& board, const std::vector<Row>& sorted) {
  const Row* worst = nullptr;
  int troubled = 0;
  for (const Row& row : sorted) {
    if (row.badness == 0) continue;
    ++troubled;
    if (worst == nullptr || row.badness > worst->badness) worst = &row;
  }
  if (worst != nullptr) {
    return {absl::StrCat(troubled, troubled == 1 ? " row" : " rows", " marked !  ", worst->rates.vm,
                         "/", worst->rates.device, " ",
                         worst->rates.queue < 0 ? "" : worst->rates.role + " ", worst->state, ": ",
                         worst->cause),
            worst->badness >= static_cast<int>(Condition::kStalled) ? Style::kBad : Style::kNotice};
  }
  if (!board.silent.empty()) {
    return {absl::StrCat(board.silent.size(), " silent: ", board.silent[0]), Style::kNotice};
  }
  return {sorted.empty() ? "" : "all queues that have work get on", Style::kDim};
}

Frame Detail(const Row& row, const View& view, int width) {
  const QueueRates& rates = row.rates;
  const double most = row.past.empty() ? 0 : *std::max_element(row.past.begin(), row.past.end());
  const std::string label = absl::StrCat(rates.packets.has_value() ? "packets" : "chains",
                                         "/s, up to ", Short(most), " ");
  const size_t bars =
      static_cast<size_t>(width) - std::min<size_t>(label.size(), static_cast<size_t>(width));
  std::string drops;
  if (!rates.drop_reasons.empty()) {
    drops = absl::StrCat("  drops so far: ", absl::StrJoin(rates.drop_reasons, ","));
  }
  return {
      {absl::StrCat(rates.vm, "/", rates.device,
                    rates.queue < 0 ? "" : absl::StrCat(" queue ", rates.queue, " ", rates.role),
                    "  process ", rates.pid, "  ", row.backend),
       Style::kTitle},
      {absl::StrCat(row.state.empty() ? "in order" : row.state,
                    row.cause.empty() ? "" : absl::StrCat(": ", row.cause), drops),
       row.badness > 0 ? Style::kBad : Style::kPlain},
      {row.reason.empty() ? "served by the backend that comes first" : row.reason,
       row.reason.empty() ? Style::kDim : Style::kNotice},
      {absl::StrCat(label, Sparkline(row.past, bars, view.utf8)), Style::kPlain}};
}

constexpr const char* kHelp[] = {
    "q         quit",
    "up, down, page up, page down, home, end   choose a row; below is what is known of it",
    "s n d a p b k c x u   sort by state, name, depth, chains, packets, bytes, kicks, calls,",
    "          drops, CPU; again: the other way round",
    "< >       sort by the one before, the next          r   the other way round",
    "+ -       look less, more often                     space   freeze",
    "",
    "DEPTH     chains that the driver made available and that were not given back",
    "PKT/s     packets; with ~ chains given back, where packets are not counted (kernel)",
    "KICK/s    notifications of the driver     CALL/s   interrupts given to it (in-process)",
    "SUPP      of the interrupts due, how many the driver did not want",
    "DROP/s    packets that did not get through (in-process)",
    "CPU%      of the threads that serve it, one CPU is 100",
    "-         the backend does not tell",
    "!         no buffers, no progress, stalled, broken, paused, or the device needs a reset",
};

Frame Help() {
  Frame frame;
  for (const char* line : kHelp) frame.push_back({line, Style::kPlain});
  return frame;
}

Frame Rows(const std::vector<Row>& sorted, const View& view, const TableLayout& layout,
           size_t page) {
  Frame frame;
  const size_t selected = Selected(sorted, view);
  for (size_t i = view.first; i < std::min(sorted.size(), view.first + page); ++i) {
    Line line{RowText(sorted[i], layout, view.utf8), Style::kPlain};
    if (sorted[i].badness > 0) line.style = Style::kNotice;
    if (sorted[i].badness >= static_cast<int>(Condition::kStalled)) line.style = Style::kBad;
    if (i == selected) line.style = Style::kSelected;
    frame.push_back(std::move(line));
  }
  return frame;
}

}  // namespace

size_t PageOf(int height) {
  const int taken = kHeadLines + kFootLines + (height >= kHeightForDetail ? kDetailLines : 0);
  return static_cast<size_t>(std::max(height - taken, 0));
}

Frame Draw(const Board& board, const std::vector<Row>& sorted, const View& view, int width,
           int height) {
  const auto lines = static_cast<size_t>(std::max(height, 0));
  const TableLayout layout = LayOut(sorted, static_cast<size_t>(std::max(width, 0)));
  Frame frame = {{Summary(board, sorted, view), Style::kTitle},
                 {Totals(sorted), Style::kPlain},
                 Trouble(board, sorted),
                 {view.help ? "" : Titles(layout, view), Style::kTitle}};
  const auto append = [&frame](Frame more) {
    frame.insert(frame.end(), std::make_move_iterator(more.begin()),
                 std::make_move_iterator(more.end()));
  };
  const size_t foot = lines >= kFootLines ? lines - kFootLines : 0;
  if (view.help) {
    append(Help());
  } else {
    append(Rows(sorted, view, layout, PageOf(height)));
    if (sorted.empty()) {
      frame.push_back({board.devices == 0 ? "no VM is to be seen; vhostctl list, vhostctl doctor"
                                          : "one more moment",
                       Style::kDim});
    } else if (height >= kHeightForDetail) {
      frame.resize(foot - kDetailLines);
      append(Detail(sorted[Selected(sorted, view)], view, width));
    }
  }
  frame.resize(foot);
  const size_t page = PageOf(height);
  const std::string where =
      sorted.size() <= page
          ? ""
          : absl::StrCat("rows ", view.first + 1, "-", std::min(view.first + page, sorted.size()),
                         " of ", sorted.size(), "  ");
  frame.push_back(
      {absl::StrCat(where, "q quit  ? help  < > sort  +- interval  space freeze"), Style::kDim});
  frame.resize(lines);
  for (Line& line : frame)
    line.text = Fitted(line.text, static_cast<size_t>(std::max(width, 0)), true, view.utf8);
  return frame;
}

std::string Table(const Board& board, const std::vector<Row>& sorted, const View& view, int width) {
  const TableLayout layout = LayOut(sorted, static_cast<size_t>(width));
  std::vector<std::string> lines = {Summary(board, sorted, view), Totals(sorted),
                                    Trouble(board, sorted).text};
  if (!sorted.empty()) lines.push_back(Titles(layout, view));
  for (const Row& row : sorted) lines.push_back(RowText(row, layout, view.utf8));
  std::string text;
  for (const std::string& line : lines) {
    std::string fitted = Fitted(line, static_cast<size_t>(width), true, view.utf8);
    absl::StripTrailingAsciiWhitespace(&fitted);
    absl::StrAppend(&text, fitted, "\n");
  }
  return text;
}

std::string Sparkline(const std::deque<double>& past, size_t width, bool utf8) {
  static constexpr std::array<const char*, 9> kBars = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr std::array<const char*, 9> kPlain = {" ", ".", ":", "-", "=",
                                                        "+", "*", "#", "@"};
  const size_t count = std::min(width, past.size());
  const auto first = past.end() - static_cast<std::ptrdiff_t>(count);
  const double most = count == 0 ? 0 : *std::max_element(first, past.end());
  std::string text(width - count, ' ');
  for (auto value = first; value != past.end(); ++value) {
    // Something is never shown as nothing.
    const auto level =
        most <= 0 || *value <= 0 ? 0 : std::clamp(std::lround(*value / most * 8), 1L, 8L);
    text += (utf8 ? kBars : kPlain)[static_cast<size_t>(level)];
  }
  return text;
}

size_t WidthOf(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace vhost::ctl::top
