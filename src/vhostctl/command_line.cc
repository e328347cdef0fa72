// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Every option that there is, and taking a command line apart by that table.
#include <algorithm>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {
namespace {

using I = Invocation;

// Those of some verbs, then those of all.
constexpr Option kOptions[] = {
    {"--batch", 0, nullptr, "a table each interval, for a file or a pipe", nullptr, &I::batch},
    {"--cid", 0, "CID", "a guest CID that is to be had", &I::cid, nullptr},
    {"--count", 'n', "N", "end after so many", &I::count, nullptr},
    {"--for", 0, "WHAT", "what has to be possible: net,vsock,kvm,in-process; the first three",
     &I::purposes, nullptr},
    {"--interval", 0, "S", "seconds between samples, 1", &I::interval, nullptr},
    {"--listen", 0, "ADDRESS",
     "answer scrapers: PORT (of 127.0.0.1), ADDR:PORT, [ADDR]:PORT or unix:PATH", &I::listen,
     nullptr},
    {"--once", 0, nullptr, "one table, then end", nullptr, &I::once},
    {"--output", 'o', "FILE", "write it there", &I::output, nullptr},
    {"--packets", 'c', "N", "end after so many packets", &I::packets, nullptr},
    {"--queue", 0, "N", "only this virtqueue of the device", &I::queue, nullptr},
    {"--queues", 0, "N", "queue pairs of a network device, 1", &I::queues, nullptr},
    {"--snaplen", 's', "BYTES", "keep so much of each packet; without it, all", &I::snaplen,
     nullptr},
    {"--sort", 0, "KEY", "state, name, depth, chains, packets, bytes, kicks, calls, drops or cpu",
     &I::sort, nullptr},
    {"--tap", 0, "NAME", "the interface that it is to be on", &I::tap, nullptr},
    {"--textfile", 0, "PATH", "write this file, NAME.prom, for node_exporter's textfile collector",
     &I::textfile, nullptr},
    {"--timeout", 0, "S", "seconds to wait at most, 10", &I::timeout, nullptr},
    {"--to", 0, "KIND", "in-process or kernel", &I::to, nullptr},
    {"--write", 'w', "FILE", "write the capture there; - is stdout, as without it", &I::file,
     nullptr},
    {"--reason", 0, "TEXT", "what the device's report says of it", &I::reason, nullptr},
    {"--json", 0, nullptr, "the same as JSON, see docs/control-protocol.md", nullptr, &I::json},
    {"--socket", 0, "PATH", "ask the process behind this control socket only", &I::socket, nullptr},
    {"--directory", 0, "DIR",
     "ask those behind the control sockets in DIR only; without these two, all in\n"
     "$XDG_RUNTIME_DIR/libvhost, /run/libvhost and /run/user/*/libvhost",
     &I::directory, nullptr},
    {"--help", 'h', nullptr, "this text, or a verb's", nullptr, &I::help},
    {"--version", 'V', nullptr, "the version", nullptr, &I::version},
};
constexpr const char* kFirstCommon = "--json";

// Whether `argument` is this option, alone or as `--option=VALUE`.
bool Is(const Option& option, absl::string_view argument) {
  if (option.letter != 0 && argument.size() == 2 && argument[1] == option.letter) return true;
  if (!absl::ConsumePrefix(&argument, option.name)) return false;
  return argument.empty() || argument[0] == '=';
}

// Takes the value from `--option=VALUE` or the argument after it.
absl::Status Take(const Option& option, std::span<const char* const> arguments, size_t* i,
                  Invocation* invocation) {
  invocation->given.emplace_back(option.name);
  const absl::string_view argument = arguments[*i];
  const size_t equals = argument.find('=');
  const bool attached = equals != absl::string_view::npos;
  if (option.text == nullptr) {
    if (attached) return absl::InvalidArgumentError(absl::StrCat(option.name, " takes no value"));
    invocation->*option.flag = true;
    return absl::OkStatus();
  }
  std::string& value = invocation->*option.text;
  value.clear();
  if (attached) {
    value = std::string(argument.substr(equals + 1));
  } else if (++*i < arguments.size()) {
    value = arguments[*i];
  }
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option.name, ": no value follows"));
}

}  // namespace

std::span<const Option> Options() { return kOptions; }

bool IsCommon(const Option& option) {
  const auto* first = std::find_if(std::begin(kOptions), std::end(kOptions), [](const Option& row) {
    return row.name == absl::string_view(kFirstCommon);
  });
  return &option >= first;
}

absl::StatusOr<double> IntervalOf(const Invocation& invocation) {
  double seconds = 1;
  if (!invocation.interval.empty() && (!absl::SimpleAtod(invocation.interval, &seconds) ||
                                       !(seconds >= 0.01) || !(seconds <= 3600))) {
    return absl::InvalidArgumentError("--interval: seconds, 0.01 to 3600");
  }
  return seconds;
}

absl::Status ParseCommandLine(std::span<const char* const> arguments, Invocation* invocation) {
  bool options_ended = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const absl::string_view argument = arguments[i];
    if (options_ended || argument.size() < 2 || argument[0] != '-') {
      if (invocation->verb.empty()) {
        invocation->verb = std::string(argument);
      } else {
        invocation->arguments.emplace_back(argument);
      }
      continue;
    }
    if (argument == "--") {
      options_ended = true;
      continue;
    }
    const auto* option = std::find_if(std::begin(kOptions), std::end(kOptions),
                                      [&](const Option& row) { return Is(row, argument); });
    if (option == std::end(kOptions)) {
      return absl::InvalidArgumentError(absl::StrCat("no option ", argument));
    }
    absl::Status taken = Take(*option, arguments, &i, invocation);
    if (!taken.ok()) return taken;
  }
  return absl::OkStatus();
}

}  // namespace vhost::ctl
