// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/top/view.h"

#include <algorithm>
#include <array>
#include <optional>

namespace vhost::ctl::top {
namespace {

// Their letters choose them.
struct SortName {
  const char* name;
  char letter;
};
constexpr std::array<SortName, kSortKeys> kSortNames = {{{"state", 's'},
                                                         {"name", 'n'},
                                                         {"depth", 'd'},
                                                         {"chains", 'a'},
                                                         {"packets", 'p'},
                                                         {"bytes", 'b'},
                                                         {"kicks", 'k'},
                                                         {"calls", 'c'},
                                                         {"drops", 'x'},
                                                         {"cpu", 'u'}}};
constexpr std::array<double, 9> kIntervals = {0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60};

// What is larger stands above; what is not known stands below everything.
double Value(const Row& row, SortKey key) {
  const QueueRates& rates = row.rates;
  switch (key) {
    case SortKey::kState:
      return row.badness;
    case SortKey::kName:
      return 0;
    case SortKey::kDepth:
      return rates.depth.has_value() ? *rates.depth : -1;
    case SortKey::kChains:
      return rates.chains.value_or(-1);
    case SortKey::kPackets:
      return Work(rates).value_or(-1);
    case SortKey::kBytes:
      return rates.bytes.value_or(-1);
    case SortKey::kKicks:
      return rates.kicks.value_or(-1);
    case SortKey::kCalls:
      return rates.calls.value_or(-1);
    case SortKey::kDrops:
      return rates.drops.value_or(-1);
    case SortKey::kCpu:
      return rates.cpu.value_or(-1);
  }
  return 0;
}

void NextInterval(bool longer, View* view) {
  if (longer) {
    const auto* next = std::upper_bound(kIntervals.begin(), kIntervals.end(), view->interval_s);
    if (next != kIntervals.end()) view->interval_s = *next;
  } else {
    const auto* here = std::lower_bound(kIntervals.begin(), kIntervals.end(), view->interval_s);
    if (here != kIntervals.begin()) view->interval_s = *(here - 1);
  }
}

void MoveTo(const std::vector<Row>& sorted, size_t row, View* view) {
  if (!sorted.empty()) view->selected = sorted[std::min(row, sorted.size() - 1)].key;
}

void ChooseSort(SortKey key, View* view) {
  view->reversed = view->sort == key && !view->reversed;
  view->sort = key;
}

}  // namespace

const char* Name(SortKey key) { return kSortNames[static_cast<size_t>(key)].name; }

bool FromName(const std::string& name, SortKey* key) {
  for (size_t i = 0; i < kSortNames.size(); ++i) {
    if (name != kSortNames[i].name) continue;
    *key = static_cast<SortKey>(i);
    return true;
  }
  return false;
}

void OnKey(int key, const std::vector<Row>& sorted, size_t page, View* view) {
  if (view->help && key != 'q') {
    view->help = false;  // any key leaves it
    return;
  }
  const size_t row = Selected(sorted, *view);
  const int sort = static_cast<int>(view->sort);
  switch (key) {
    case 'q':
      view->quit = true;
      return;
    case '?':
    case 'h':
      view->help = true;
      return;
    case ' ':
      view->frozen = !view->frozen;
      return;
    case 'r':
      view->reversed = !view->reversed;
      return;
    case '+':
    case '-':
      return NextInterval(key == '+', view);
    case '<':
    case '>':
      view->reversed = false;
      view->sort = static_cast<SortKey>((sort + (key == '>' ? 1 : kSortKeys - 1)) % kSortKeys);
      return;
    case kKeyUp:
      return MoveTo(sorted, row - std::min<size_t>(row, 1), view);
    case kKeyDown:
      return MoveTo(sorted, row + 1, view);
    case kKeyPageUp:
      return MoveTo(sorted, row - std::min(row, page), view);
    case kKeyPageDown:
      return MoveTo(sorted, row + page, view);
    case kKeyHome:
      return MoveTo(sorted, 0, view);
    case kKeyEnd:
      return MoveTo(sorted, sorted.size(), view);
    default:
      break;
  }
  for (size_t i = 0; i < kSortNames.size(); ++i) {
    if (key == kSortNames[i].letter) ChooseSort(static_cast<SortKey>(i), view);
  }
}

std::vector<Row> Sorted(std::vector<Row> rows, const View& view) {
  if (view.sort == SortKey::kName) {
    if (view.reversed) std::reverse(rows.begin(), rows.end());
    return rows;
  }
  // Rows of the same value keep their order by name.
  std::stable_sort(rows.begin(), rows.end(), [&](const Row& a, const Row& b) {
    const double x = Value(a, view.sort);
    const double y = Value(b, view.sort);
    return view.reversed ? x < y : x > y;
  });
  return rows;
}

size_t Selected(const std::vector<Row>& sorted, const View& view) {
  const auto found = std::find_if(sorted.begin(), sorted.end(),
                                  [&](const Row& row) { return row.key == view.selected; });
  return found == sorted.end() ? 0 : static_cast<size_t>(found - sorted.begin());
}

void Scroll(const std::vector<Row>& sorted, size_t page, View* view) {
  const size_t row = Selected(sorted, *view);
  page = std::max<size_t>(page, 1);
  if (row < view->first) view->first = row;
  if (row >= view->first + page) view->first = row - page + 1;
  // No empty lines below while there are rows above.
  view->first = std::min(view->first, sorted.size() - std::min(sorted.size(), page));
}

}  // namespace vhost::ctl::top
