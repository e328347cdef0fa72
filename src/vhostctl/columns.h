// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>
#include <vector>

namespace vhost::ctl {

// Rows of cells as text, columns aligned to the left and two spaces apart, each line after
// `indent` spaces. Rows may have different numbers of cells. The last cell of a row is not padded.
std::string Columns(const std::vector<std::vector<std::string>>& rows, int indent = 0);

// Words with a space between them, in lines of up to `width` bytes; all lines but the first after
// `indent` spaces, which count.
std::string Wrapped(const std::vector<std::string>& words, int indent, int width = 100);

}  // namespace vhost::ctl
