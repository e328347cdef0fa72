// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/columns.h"

#include <algorithm>
#include <cstddef>

namespace vhost::ctl {

std::string Columns(const std::vector<std::vector<std::string>>& rows, int indent) {
  std::vector<size_t> widths;
  for (const std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    // The last cell pushes nothing to the right, however long it is.
    for (size_t i = 0; i + 1 < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    text.append(static_cast<size_t>(indent), ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - row[i].size() + 2, ' ');
    }
    text += '\n';
  }
  return text;
}

std::string Wrapped(const std::vector<std::string>& words, int indent, int width) {
  std::string text;
  size_t line = static_cast<size_t>(indent);  // bytes of the current one
  for (const std::string& word : words) {
    const bool first = text.empty();
    if (!first && line + 1 + word.size() > static_cast<size_t>(width)) {
      text += '\n';
      text.append(static_cast<size_t>(indent), ' ');
      line = static_cast<size_t>(indent);
    } else if (!first) {
      text += ' ';
      ++line;
    }
    text += word;
    line += word.size();
  }
  return text;
}

}  // namespace vhost::ctl
