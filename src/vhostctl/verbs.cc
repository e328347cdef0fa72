// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "src/vhostctl/verb.h"
#include "vhost/version.h"

namespace vhost::ctl {
namespace {

constexpr Verb kVerbs[] = {
    {"list", "", "shows every device of every VM that this user may look at",
     "A line a device: its VM and process, who serves it and how far it is up, how many of its\n"
     "virtqueues are active, what it is connected to, and the threads that serve it.\n",
     List},
    {"show", "[VM/]DEVICE", "shows all that is known of one device",
     "VM is the VM's name or its process ID; it is needed where several VMs have a device of that\n"
     "name. Nothing is stopped to find out; ring indices are read from the live rings.\n",
     Show},
    {"handover", "[VM/]DEVICE --to KIND", "has another backend serve a device",
     "KIND is in-process or kernel. The guest goes on meanwhile: its queues stand still for less\n"
     "than a millisecond, and nothing is lost. Connections of a socket device end, since no other\n"
     "backend knows them. If the other backend cannot serve, the old one goes on. The device "
     "stays\n"
     "where it was moved to, also when the guest restarts.\n",
     Handover},
    {"pause", "[VM/]DEVICE", "stops serving a device's queues",
     "The guest's driver waits. What it had negotiated stays, and no guest memory is touched "
     "until\n"
     "the device is resumed.\n",
     Pause},
    {"resume", "[VM/]DEVICE", "goes on with a device that was paused", "", Resume},
};

constexpr char kOptions[] =
    "Options:\n"
    "  --to KIND        for handover: in-process or kernel\n"
    "  --reason TEXT    for handover and pause: what the device's report says of it\n"
    "  --json           the same as JSON, see docs/control-protocol.md\n"
    "  --socket PATH    ask the process behind this control socket only\n"
    "  --directory DIR  ask those behind the control sockets in DIR only; without these two, all "
    "in\n"
    "                   $XDG_RUNTIME_DIR/libvhost, /run/libvhost and /run/user/*/libvhost\n"
    "  --help           this text, or a verb's\n"
    "  --version        the version\n";

constexpr char kExitCodes[] =
    "Exit codes: 0 done, 1 failure, 2 wrong usage, 3 no such device or VM, 4 no permission,\n"
    "5 no process answered.\n";

std::string Help() {
  std::string text = "Usage: vhostctl [OPTION...] VERB [ARGUMENT...]\n\nVerbs:\n";
  for (const Verb& verb : kVerbs) {
    absl::StrAppendFormat(&text, "  %-31s  %s\n", absl::StrCat(verb.name, " ", verb.usage),
                          verb.summary);
  }
  return absl::StrCat(text, "\n", kOptions, "\n", kExitCodes);
}

std::string Sentence(const char* summary) {
  std::string sentence = absl::StrCat(summary, ".\n");
  sentence[0] = absl::ascii_toupper(static_cast<unsigned char>(sentence[0]));
  return sentence;
}

std::string HelpOf(const Verb& verb) {
  const bool plain = verb.usage[0] == '\0';
  return absl::StrCat("Usage: vhostctl ", verb.name, plain ? "" : " ", verb.usage,
                      " [OPTION...]\n\n", Sentence(verb.summary), verb.help, "\n", kOptions, "\n",
                      kExitCodes);
}

}  // namespace

std::span<const Verb> Verbs() { return kVerbs; }

Outcome Run(const Invocation& invocation) {
  if (invocation.version) {
    return {.out = absl::StrCat("vhostctl ", LibraryVersion(), "\n")};
  }
  if (invocation.verb.empty() || invocation.verb == "help") {
    if (invocation.help || invocation.verb == "help") return {.out = Help()};
    return {.code = kUsage, .err = Help()};
  }
  const auto* verb = std::find_if(std::begin(kVerbs), std::end(kVerbs),
                                  [&](const Verb& row) { return invocation.verb == row.name; });
  if (verb == std::end(kVerbs)) {
    return WrongUsage(absl::StrCat("no verb \"", invocation.verb, "\""));
  }
  if (invocation.help) return {.out = HelpOf(*verb)};
  return verb->run(invocation);
}

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kOk;
    case absl::StatusCode::kNotFound:
      return kNotFound;
    case absl::StatusCode::kPermissionDenied:
      return kNotPermitted;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
      return kUnreachable;
    default:
      return kFailure;
  }
}

Outcome Failed(const absl::Status& status) {
  return {.code = ExitCodeOf(status), .err = absl::StrCat(std::string(status.message()), "\n")};
}

Outcome WrongUsage(absl::string_view message) {
  return {.code = kUsage, .err = absl::StrCat(message, "; see vhostctl --help\n")};
}

namespace {

// Takes the value of `option` from `--option=VALUE` or the argument after it. False if `argument`
// is another option.
bool TakeValue(absl::string_view option, std::span<const char* const> arguments, size_t* i,
               std::string* to, absl::Status* status) {
  absl::string_view argument = arguments[*i];
  if (!absl::ConsumePrefix(&argument, option)) return false;
  if (absl::ConsumePrefix(&argument, "=")) {
    *to = std::string(argument);
  } else if (!argument.empty()) {
    return false;
  } else if (++*i < arguments.size()) {
    *to = arguments[*i];
  }
  if (to->empty()) *status = absl::InvalidArgumentError(absl::StrCat(option, ": no value follows"));
  return true;
}

}  // namespace

absl::Status ParseCommandLine(std::span<const char* const> arguments, Invocation* invocation) {
  bool options_ended = false;
  absl::Status status;
  for (size_t i = 0; i < arguments.size() && status.ok(); ++i) {
    const absl::string_view argument = arguments[i];
    if (options_ended || argument.size() < 2 || argument[0] != '-') {
      if (invocation->verb.empty()) {
        invocation->verb = std::string(argument);
      } else {
        invocation->arguments.emplace_back(argument);
      }
    } else if (argument == "--") {
      options_ended = true;
    } else if (argument == "--json") {
      invocation->json = true;
    } else if (argument == "--help" || argument == "-h") {
      invocation->help = true;
    } else if (argument == "--version" || argument == "-V") {
      invocation->version = true;
    } else if (!TakeValue("--socket", arguments, &i, &invocation->socket, &status) &&
               !TakeValue("--directory", arguments, &i, &invocation->directory, &status) &&
               !TakeValue("--to", arguments, &i, &invocation->to, &status) &&
               !TakeValue("--reason", arguments, &i, &invocation->reason, &status)) {
      status = absl::InvalidArgumentError(absl::StrCat("no option ", argument));
    }
  }
  return status;
}

}  // namespace vhost::ctl
