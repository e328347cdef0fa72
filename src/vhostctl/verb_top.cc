// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <signal.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "src/vhostctl/json_text.h"
#include "src/vhostctl/rates_text.h"
#include "src/vhostctl/top/board.h"
#include "src/vhostctl/top/frame.h"
#include "src/vhostctl/top/sampler.h"
#include "src/vhostctl/top/terminal.h"
#include "src/vhostctl/top/view.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {
namespace {

using top::Board;
using top::BoardMaker;
using top::View;

// Of a table for a file or a pipe; a terminal's or the caller's if COLUMNS says so.
int TableWidth() {
  constexpr int kDefault = 160;
  const char* const columns = getenv("COLUMNS");
  int width = 0;
  if (columns == nullptr || !absl::SimpleAtoi(columns, &width)) return kDefault;
  return std::clamp(width, 40, 1000);
}

std::string JsonLine(const Board& board) {
  std::vector<std::string> rows;
  for (const top::Row& row : board.rows) {
    JsonObject object;
    object.Json("rates", JsonOf(row.rates))
        .Text("state", row.state)
        .Text("cause", row.cause)
        .Text("backend", row.backend)
        .Text("reason", row.reason);
    rows.push_back(object.Done());
  }
  return absl::StrCat(
      JsonObject()
          .Text("time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", board.when, absl::UTCTimeZone()))
          .Json("rows", JsonList(rows))
          .Json("silent", JsonStrings(board.silent))
          .Done(),
      "\n");
}

// For scripts: a table or a JSON object for each interval.
Outcome Batch(const Invocation& invocation, const std::string& wanted, const View& view,
              uint64_t count) {
  BoardMaker maker(wanted);
  top::Sample sample = top::TakeSample(invocation);
  maker.Next(sample);
  for (uint64_t i = 0; i < count; ++i) {
    absl::SleepFor(absl::Seconds(view.interval_s));
    sample = top::TakeSample(invocation);
    const Board board = maker.Next(sample);
    const std::string text =
        invocation.json
            ? JsonLine(board)
            : absl::StrCat(i > 0 ? "\n" : "",
                           top::Table(board, Sorted(board.rows, view), view, TableWidth()));
    if (invocation.write == nullptr || !invocation.write(text)) break;
    if (!wanted.empty() && board.rows.empty() && sample.gathered.code == kOk) {
      return Failed(absl::NotFoundError(
          absl::StrCat(wanted, ": no such device; vhostctl list shows those that there are")));
    }
  }
  return {.code = sample.gathered.code, .err = sample.gathered.errors};
}

Outcome Live(const Invocation& invocation, const std::string& wanted, View view) {
  auto terminal = top::Terminal::Open();
  if (!terminal.ok()) return {.code = kUsage, .err = Failed(terminal.status()).err};
  view.utf8 = (*terminal)->utf8();
  auto sampler = top::Sampler::Start(invocation, absl::Seconds(view.interval_s));
  if (!sampler.ok()) return Failed(sampler.status());
  BoardMaker maker(wanted);
  Board board;
  top::Terminal::Woken woken = top::Terminal::Woken::kByResize;
  while (woken != top::Terminal::Woken::kToEnd && !view.quit) {
    if (auto sample = (*sampler)->Take(); sample.has_value()) {
      Board next = maker.Next(*sample);
      if (!view.frozen) board = std::move(next);
    }
    const int height = (*terminal)->height();
    const size_t page = top::PageOf(height);
    std::vector<top::Row> sorted = Sorted(board.rows, view);
    while (const std::optional<int> key = (*terminal)->NextKey()) {
      OnKey(*key, sorted, page, &view);
      sorted = Sorted(board.rows, view);
    }
    (*sampler)->SetInterval(absl::Seconds(view.interval_s));
    Scroll(sorted, page, &view);
    (*terminal)->Show(Draw(board, sorted, view, (*terminal)->width(), height));
    if (!view.quit) woken = (*terminal)->Wait((*sampler)->fd());
  }
  const int signal = (*terminal)->ended_by();
  terminal->reset();  // at once: the last sample may take a while to end
  if (signal != 0) {
    // Whoever sent it is to see that it did what it does.
    ::signal(signal, SIG_DFL);
    raise(signal);
  }
  return {};
}

}  // namespace

Outcome Top(const Invocation& invocation) {
  if (invocation.arguments.size() > 1) return WrongUsage("top takes one argument, [VM/]DEVICE");
  const std::string wanted = invocation.arguments.empty() ? "" : invocation.arguments[0];
  View view;
  const absl::StatusOr<double> interval_s = IntervalOf(invocation);
  if (!interval_s.ok()) return WrongUsage(interval_s.status().message());
  view.interval_s = *interval_s;
  if (!invocation.sort.empty() && !FromName(invocation.sort, &view.sort)) {
    std::string names;
    for (int i = 0; i < top::kSortKeys; ++i) {
      absl::StrAppend(&names, i > 0 ? ", " : "", Name(static_cast<top::SortKey>(i)));
    }
    return WrongUsage(absl::StrCat("--sort: ", names));
  }
  uint64_t count = invocation.once ? 1 : std::numeric_limits<uint64_t>::max();
  if (!invocation.count.empty() && (!absl::SimpleAtoi(invocation.count, &count) || count == 0)) {
    return WrongUsage("--count: a number from 1");
  }
  const bool is_batch =
      invocation.batch || invocation.once || invocation.json || !invocation.count.empty();
  return is_batch ? Batch(invocation, wanted, view, count) : Live(invocation, wanted, view);
}

}  // namespace vhost::ctl
