// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A verb of vhostctl. Each is one file, verb_NAME.cc, and one row of the table in verbs.cc.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace vhost::ctl {

// What scripts can rely on; the same list is in docs/man/vhostctl.1.
enum ExitCode : int {
  kOk = 0,
  kFailure = 1,   // anything that is none of the others
  kUsage = 2,     // the command line
  kNotFound = 3,  // no such device or VM
  kNotPermitted = 4,
  kUnreachable = 5,  // no process answered on the socket
};
ExitCode ExitCodeOf(const absl::Status& status);

// A command line, taken apart. Each option is a row of the table in command_line.cc.
struct Invocation {
  std::string verb;
  std::vector<std::string> arguments;
  std::string socket;
  std::string directory;
  std::string to;
  std::string reason;
  std::string count;
  std::string interval;
  std::string output;
  std::string purposes;  // --for
  std::string queues;
  std::string cid;
  std::string tap;
  std::string textfile;
  std::string file;  // --write
  std::string packets;
  std::string snaplen;
  std::string queue;
  std::string sort;
  std::string listen;
  bool batch = false;
  bool once = false;
  std::string timeout;
  bool json = false;
  bool help = false;
  bool version = false;
  std::vector<std::string> given;  // names of the options that stood there
  // For verbs that tell things as they happen: writes to stdout at once; false: nobody reads it any
  // more. Empty: there is no such stdout, and such a verb ends when it would wait.
  std::function<bool(absl::string_view)> write;
};

struct Option {
  const char* name;   // "--to"
  char letter;        // 'h', or 0
  const char* value;  // what follows it, "KIND"; nullptr: nothing
  const char* help;   // a line
  std::string Invocation::*text;
  bool Invocation::*flag;
};
std::span<const Option> Options();
// Those that every verb takes.
bool IsCommon(const Option& option);

// What a verb has to say, and how it went. Text for stdout is complete also when something failed:
// the rest may still be of use.
struct Outcome {
  ExitCode code = kOk;
  std::string out;
  std::string err;  // lines for stderr, without the program's name
};
Outcome Failed(const absl::Status& status);
Outcome WrongUsage(absl::string_view message);

struct Verb {
  const char* name;
  const char* usage;    // what follows the name: "[VM/]DEVICE"
  const char* options;  // that it takes besides the common ones: "--to --reason"
  const char* summary;  // a line
  const char* help;     // the rest of --help
  Outcome (*run)(const Invocation&);
};

Outcome List(const Invocation& invocation);
Outcome Show(const Invocation& invocation);
Outcome Bundle(const Invocation& invocation);
Outcome Capture(const Invocation& invocation);
Outcome Completion(const Invocation& invocation);
Outcome Doctor(const Invocation& invocation);
Outcome Events(const Invocation& invocation);
Outcome Handover(const Invocation& invocation);
Outcome Metrics(const Invocation& invocation);
Outcome Stats(const Invocation& invocation);
Outcome Top(const Invocation& invocation);
Outcome Plug(const Invocation& invocation);
Outcome Unplug(const Invocation& invocation);
Outcome Pause(const Invocation& invocation);
Outcome Resume(const Invocation& invocation);

std::span<const Verb> Verbs();
bool Takes(const Verb& verb, const Option& option);
// Runs the verb that was named, or gives the help that was asked for.
Outcome Run(const Invocation& invocation);

// The seconds of --interval, 1 without it. INVALID_ARGUMENT: not 0.01 to 3600.
absl::StatusOr<double> IntervalOf(const Invocation& invocation);

// INVALID_ARGUMENT: an option that there is not, or one without its value. `arguments` are those of
// main() without the program's name. Options may stand before and after the verb; "--" ends them.
absl::Status ParseCommandLine(std::span<const char* const> arguments, Invocation* invocation);

}  // namespace vhost::ctl
