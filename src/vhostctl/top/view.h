// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a person looks at the board: sorted by what, where the cursor is, frozen or not; and what
// each key does to that. It knows nothing of terminals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/vhostctl/top/board.h"

namespace vhost::ctl::top {

enum class SortKey : uint8_t {
  kState,
  kName,
  kDepth,
  kChains,
  kPackets,
  kBytes,
  kKicks,
  kCalls,
  kDrops,
  kCpu,
};
inline constexpr int kSortKeys = 10;
// "state", "name", ...: also the value of --sort.
const char* Name(SortKey key);
// False if there is none of that name.
bool FromName(const std::string& name, SortKey* key);

// Keys that are no characters.
enum Key : int { kKeyUp = 0x100, kKeyDown, kKeyPageUp, kKeyPageDown, kKeyHome, kKeyEnd };

struct View {
  SortKey sort = SortKey::kState;
  bool reversed = false;
  bool frozen = false;
  bool help = false;
  bool quit = false;
  double interval_s = 1;
  bool utf8 = false;     // what the terminal shows
  std::string selected;  // a row's key; none: the first row
  size_t first = 0;      // row that is shown on top
};

// `page`: rows that are shown at once.
void OnKey(int key, const std::vector<Row>& sorted, size_t page, View* view);

// The worst, the largest or the first of the alphabet on top.
std::vector<Row> Sorted(std::vector<Row> rows, const View& view);
// Which one the cursor is on: 0 if it is on none that is there.
size_t Selected(const std::vector<Row>& sorted, const View& view);
// Moves `first` so that the cursor is among the `page` rows shown.
void Scroll(const std::vector<Row>& sorted, size_t page, View* view);

}  // namespace vhost::ctl::top
