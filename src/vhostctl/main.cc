// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <cstdio>
#include <span>

#include "absl/strings/str_split.h"
#include "src/vhostctl/verb.h"

int main(int argc, char** argv) {
  vhost::ctl::Invocation invocation;
  invocation.write = [](absl::string_view text) {
    return fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0;
  };
  const absl::Status parsed = vhost::ctl::ParseCommandLine(
      std::span<const char* const>(argv, static_cast<size_t>(argc)).subspan(argc > 0 ? 1 : 0),
      &invocation);
  const vhost::ctl::Outcome outcome =
      parsed.ok() ? vhost::ctl::Run(invocation) : vhost::ctl::WrongUsage(parsed.message());
  fwrite(outcome.out.data(), 1, outcome.out.size(), stdout);
  // Output that did not arrive (a full disk, a closed pipe) is a failure too.
  const bool written = fflush(stdout) == 0 && ferror(stdout) == 0;
  const bool help = outcome.err.rfind("Usage:", 0) == 0;
  for (absl::string_view line : absl::StrSplit(outcome.err, '\n', absl::AllowEmpty())) {
    if (line.data() + line.size() == outcome.err.data() + outcome.err.size() && line.empty()) break;
    fprintf(stderr, help ? "%.*s\n" : "vhostctl: %.*s\n", static_cast<int>(line.size()),
            line.data());
  }
  if (!written) {
    perror("vhostctl: stdout");
    return vhost::ctl::kFailure;
  }
  return outcome.code;
}
