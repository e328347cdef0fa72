// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which columns `top` has room for, and how wide they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "src/vhostctl/top/board.h"
#include "src/vhostctl/top/view.h"

namespace vhost::ctl::top {

enum class ColumnId : uint8_t {
  kName,
  kPid,
  kQueue,
  kServedBy,
  kDepth,
  kChains,
  kPackets,
  kBytes,
  kKicks,
  kCalls,
  kSuppressed,
  kDrops,
  kCpu,
  kHistory,
  kState,
};

struct TableLayout {
  struct Column {
    ColumnId id;
    size_t width;
    bool is_left;  // aligned
  };
  std::vector<Column> columns;  // each has one more column of the terminal before it
};

// For a terminal of `width` columns.
TableLayout LayOut(const std::vector<Row>& rows, size_t width);

std::string TitleOf(ColumnId column);
bool IsSortedBy(ColumnId column, SortKey key);

// `text` in exactly `width` columns: padded, or cut with a "~". What is no plain character is shown
// as "?", since it may come from anybody; but for the bars of a sparkline where there is `utf8`.
std::string Fitted(absl::string_view text, size_t width, bool is_left, bool utf8);

}  // namespace vhost::ctl::top
