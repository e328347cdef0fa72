// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhost-backend/options.h"

#include <grp.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace vhost_backend {
namespace {

constexpr char kHelp[] =
    R"(Usage: vhost-backend net --socket PATH --tap NAME [OPTION...]
       vhost-backend vsock --socket PATH --guest-cid N --uds PATH [OPTION...]

Serves the queues of a virtio device to a vhost-user front end: a VMM whose guest has the device. One
front end is served at a time. When it goes, or this program is restarted, the guest goes on where
it was as soon as the front end is connected again.

  --socket PATH       makes a socket there for front ends (also --socket-path)
  --fd N              or: this fd is a socket that listens, or is connected to a front end
  --group NAME        members of the group may connect, too
  --poll-us N         microseconds that a data thread polls at most before it sleeps (default 100)
  --packed            offers packed rings; a front end that loses us cannot know where they stand
  --no-sandbox        keeps capabilities, and the right to gain privileges
  --verbose           tells on stderr of front ends that come and go
  --print-capabilities, --help, --version

net:
  --tap NAME          TAP interface, made if it is not there
  --tap-fds N:N...    or: open and attached queues of one
  --queues N          queue pairs (default 1)

vsock:
  --guest-cid N       context id of the guest
  --uds PATH          unix socket where host programs reach the guest: "CONNECT <port>"; what the
                      guest asks for goes to PATH_<port>

Exit code: 0 when it was stopped (SIGTERM, SIGINT, SIGHUP) or the front end of --fd has gone, 1 when
something failed, 2 for a wrong command line.
)";

absl::Status Usage(std::string message) {
  return absl::InvalidArgumentError(absl::StrCat(message, " (see --help)"));
}

template <typename Number>
absl::Status ParseNumber(absl::string_view name, absl::string_view text, Number least, Number most,
                         Number& number) {
  Number parsed{};
  if (!absl::SimpleAtoi(text, &parsed) || parsed < least || parsed > most) {
    return Usage(
        absl::StrCat(name, " ", text, ": a number from ", least, " to ", most, " is needed"));
  }
  number = parsed;
  return absl::OkStatus();
}

absl::Status ParseGroup(absl::string_view text, std::optional<gid_t>& group) {
  const ::group* found = getgrnam(std::string(text).c_str());
  if (found == nullptr) return Usage(absl::StrCat("--group ", text, ": there is no such group"));
  group = found->gr_gid;
  return absl::OkStatus();
}

absl::Status ParseFds(absl::string_view text, std::vector<int>& fds) {
  for (const absl::string_view part : absl::StrSplit(text, ':')) {
    int fd = -1;
    if (absl::Status status = ParseNumber("--tap-fds", part, 0, 1 << 20, fd); !status.ok()) {
      return status;
    }
    fds.push_back(fd);
  }
  return absl::OkStatus();
}

// True if it is a switch, which has no value.
bool ApplySwitch(absl::string_view name, Options& options) {
  if (name == "--packed") {
    options.packed = true;
  } else if (name == "--no-sandbox") {
    options.sandbox = false;
  } else if (name == "--verbose") {
    options.verbose = true;
  } else {
    return false;
  }
  return true;
}

absl::Status Apply(absl::string_view name, absl::string_view value, Options& options) {
  const bool is_net = options.type == DeviceType::kNet;
  if (name == "--socket" || name == "--socket-path") {
    options.socket = std::string(value);
  } else if (name == "--fd") {
    int fd = -1;
    if (absl::Status status = ParseNumber(name, value, 0, 1 << 20, fd); !status.ok()) return status;
    options.fd = fd;
  } else if (name == "--group") {
    return ParseGroup(value, options.group);
  } else if (name == "--poll-us") {
    return ParseNumber<uint32_t>(name, value, 0, 1'000'000, options.poll_us);
  } else if (is_net && name == "--tap") {
    options.tap = std::string(value);
  } else if (is_net && name == "--tap-fds") {
    return ParseFds(value, options.tap_fds);
  } else if (is_net && name == "--queues") {
    return ParseNumber(name, value, 1, 128, options.queues);
  } else if (!is_net && name == "--guest-cid") {
    return ParseNumber<uint64_t>(name, value, 3, 0xffff'fffe, options.guest_cid);
  } else if (!is_net && name == "--uds") {
    options.uds = std::string(value);
  } else {
    return Usage(absl::StrCat(name, ": ", is_net ? "net" : "vsock", " has no such option"));
  }
  return absl::OkStatus();
}

absl::Status CheckComplete(Options& options) {
  if (options.socket.empty() == !options.fd.has_value()) {
    return Usage("where the front end is: either --socket PATH or --fd N is needed");
  }
  if (options.group.has_value() && options.fd.has_value()) {
    return Usage("--group: --fd is a socket whose group was chosen elsewhere");
  }
  if (options.type == DeviceType::kVsock) {
    if (options.guest_cid == 0) return Usage("vsock: --guest-cid is needed");
    if (options.uds.empty()) return Usage("vsock: --uds is needed");
    return absl::OkStatus();
  }
  if (options.tap.empty() == options.tap_fds.empty()) {
    return Usage("net: either --tap NAME or --tap-fds N is needed");
  }
  if (!options.tap_fds.empty()) options.queues = static_cast<int>(options.tap_fds.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::variant<Options, Text>> ParseOptions(std::span<const char* const> arguments) {
  for (const absl::string_view argument : arguments) {
    if (argument == "--help" || argument == "-h") return Text{kHelp};
    if (argument == "--version") return Text{"vhost-backend " LIBVHOST_VERSION "\n"};
  }
  if (arguments.empty()) return Usage("which device is to be served: net or vsock");
  const absl::string_view type = arguments.front();
  Options options;
  if (type == "vsock") {
    options.type = DeviceType::kVsock;
  } else if (type != "net") {
    return Usage(absl::StrCat(type, ": the devices are net and vsock"));
  }
  for (size_t i = 1; i < arguments.size(); ++i) {
    const absl::string_view argument = arguments[i];
    if (argument == "--print-capabilities") {
      // As vhost-user.rst has it, "Backend program conventions".
      return Text{absl::StrCat("{\n  \"type\": \"", type, "\",\n  \"features\": []\n}\n")};
    }
    if (ApplySwitch(argument, options)) continue;
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(argument, absl::MaxSplits('=', 1));
    const bool has_value = parts.first.size() < argument.size();
    if (!has_value && (argument.substr(0, 2) != "--" || i + 1 == arguments.size())) {
      return Usage(absl::StrCat(argument, argument.substr(0, 2) == "--"
                                              ? ": its value is missing, or there is no such option"
                                              : ": no option"));
    }
    const absl::string_view value = has_value ? parts.second : absl::string_view(arguments[++i]);
    if (absl::Status status = Apply(parts.first, value, options); !status.ok()) return status;
  }
  if (absl::Status status = CheckComplete(options); !status.ok()) return status;
  return options;
}

}  // namespace vhost_backend
