// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/table_layout.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "absl/strings/match.h"
#include "src/vhostctl/top/frame.h"

namespace vhost::ctl::top {
namespace {

struct Known {
  ColumnId id;
  const char* title;
  size_t width;  // the least
  int place;     // in which order columns get room; those at the end go first where it is narrow
  bool is_left;
  std::optional<SortKey> sort;
};
// As they stand from left to right.
constexpr Known kColumns[] = {
    {ColumnId::kName, "DEVICE", 8, 0, true, SortKey::kName},
    {ColumnId::kPid, "PID", 7, 14, false, std::nullopt},
    {ColumnId::kQueue, "QUEUE", 5, 1, true, std::nullopt},
    {ColumnId::kServedBy, "BY", 6, 8, true, std::nullopt},
    {ColumnId::kDepth, "DEPTH", 5, 3, false, SortKey::kDepth},
    {ColumnId::kChains, "CHAIN/s", 7, 12, false, SortKey::kChains},
    {ColumnId::kPackets, "PKT/s", 5, 2, false, SortKey::kPackets},
    {ColumnId::kBytes, "BYTE/s", 6, 7, false, SortKey::kBytes},
    {ColumnId::kKicks, "KICK/s", 6, 5, false, SortKey::kKicks},
    {ColumnId::kCalls, "CALL/s", 6, 9, false, SortKey::kCalls},
    {ColumnId::kSuppressed, "SUPP", 4, 10, false, std::nullopt},
    {ColumnId::kDrops, "DROP/s", 6, 6, false, SortKey::kDrops},
    {ColumnId::kCpu, "CPU%", 4, 4, false, SortKey::kCpu},
    {ColumnId::kHistory, "HISTORY", 8, 11, true, std::nullopt},
    {ColumnId::kState, "STATE", 11, 13, true, SortKey::kState},
};
constexpr size_t kMostName = 40;
constexpr size_t kMostHistory = 60;

const Known& Of(ColumnId id) {
  return *std::find_if(std::begin(kColumns), std::end(kColumns),
                       [id](const Known& column) { return column.id == id; });
}

bool IsBar(absl::string_view text) {
  // U+2581 to U+2588.
  return text.size() >= 3 && text[0] == '\xe2' && text[1] == '\x96' && text[2] >= '\x81' &&
         text[2] <= '\x88';
}

TableLayout::Column* Find(TableLayout* layout, ColumnId id) {
  for (TableLayout::Column& column : layout->columns) {
    if (column.id == id) return &column;
  }
  return nullptr;
}

}  // namespace

TableLayout LayOut(const std::vector<Row>& rows, size_t width) {
  std::vector<const Known*> wanted;
  for (const Known& column : kColumns) wanted.push_back(&column);
  std::sort(wanted.begin(), wanted.end(),
            [](const Known* a, const Known* b) { return a->place < b->place; });
  size_t used = 0;
  size_t taken = 0;
  while (taken < wanted.size() && used + 1 + wanted[taken]->width <= width) {
    used += 1 + wanted[taken]->width;
    ++taken;
  }
  wanted.resize(taken);
  TableLayout layout;
  for (const Known& column : kColumns) {
    if (std::find(wanted.begin(), wanted.end(), &column) == wanted.end()) continue;
    layout.columns.push_back({column.id, column.width, column.is_left});
  }
  // What is left goes to the names as far as they need it, then in turn to the past and the state.
  size_t left = width - used;
  size_t name = 0;
  for (const Row& row : rows)
    name = std::max(name, row.rates.vm.size() + 1 + row.rates.device.size());
  const auto grow = [&](ColumnId id, size_t most) {
    TableLayout::Column* column = Find(&layout, id);
    if (column == nullptr || column->width >= most) return;
    const size_t more = std::min(left, most - column->width);
    column->width += more;
    left -= more;
  };
  grow(ColumnId::kName, std::min(name, kMostName));
  grow(ColumnId::kQueue, 7);  // "control"
  TableLayout::Column* history = Find(&layout, ColumnId::kHistory);
  if (history != nullptr && Find(&layout, ColumnId::kState) != nullptr) {
    grow(ColumnId::kHistory, std::min(history->width + left / 2, kMostHistory));
  }
  grow(ColumnId::kHistory, Find(&layout, ColumnId::kState) != nullptr ? 0 : kMostHistory);
  grow(ColumnId::kState, width);
  return layout;
}

std::string TitleOf(ColumnId column) { return Of(column).title; }

bool IsSortedBy(ColumnId column, SortKey key) { return Of(column).sort == key; }

std::string Fitted(absl::string_view text, size_t width, bool is_left, bool utf8) {
  std::string plain;
  size_t columns = 0;
  size_t last = 0;  // where the last column's character begins
  while (!text.empty() && columns < width) {
    const size_t bytes = utf8 && IsBar(text) ? 3 : 1;
    // Continuation bytes of what is shown as one "?" take no room.
    const bool continues = bytes == 1 && (text[0] & 0xc0) == 0x80;
    if (!continues) {
      last = plain.size();
      if (bytes == 3 || (text[0] >= 0x20 && text[0] < 0x7f)) {
        plain.append(text.data(), bytes);
      } else {
        plain.push_back('?');
      }
      ++columns;
    }
    text.remove_prefix(bytes);
  }
  if (WidthOf(text) > 0 && width > 0) {
    plain.resize(last);
    plain.push_back('~');
  }
  const std::string padding(width - std::min(columns, width), ' ');
  return is_left ? plain + padding : padding + plain;
}

}  // namespace vhost::ctl::top
