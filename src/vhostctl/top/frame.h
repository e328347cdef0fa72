// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The screen of `top` as text: a pure function of the board, of how it is looked at, and of the
// terminal's size. Whatever the size, it has exactly so many lines, none wider than that.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/vhostctl/top/board.h"
#include "src/vhostctl/top/view.h"

namespace vhost::ctl::top {

enum class Style : uint8_t { kPlain, kDim, kTitle, kSelected, kNotice, kBad };

struct Line {
  std::string text;  // printable; one column a character, which is UTF-8 in history alone
  Style style = Style::kPlain;
};
using Frame = std::vector<Line>;

// Rows of the board that fit.
size_t PageOf(int height);

// `sorted`: the board's rows in the view's order; view.first must be right for them (Scroll).
Frame Draw(const Board& board, const std::vector<Row>& sorted, const View& view, int width,
           int height);

// The same table for a file or a pipe: all rows, no cursor.
std::string Table(const Board& board, const std::vector<Row>& sorted, const View& view, int width);

// The last `width` of `past` as bars, the largest shown in full; older ones to the left.
std::string Sparkline(const std::deque<double>& past, size_t width, bool utf8);

// Columns that `text` takes.
size_t WidthOf(absl::string_view text);

}  // namespace vhost::ctl::top
