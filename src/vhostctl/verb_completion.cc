// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Shell completions, written from the tables of verbs and options, so that they know each as soon
// as it is there.
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "src/vhostctl/verb.h"

namespace vhost::ctl {
namespace {

// For '...' of all three shells' languages, in which the texts of the tables stand.
std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", ""}, {"\n", " "}}), "'");
}

// Names of devices, asked for when they are needed: "VM/DEVICE" of each. They come from whoever has
// a socket or a process on this host, and bash expands what compgen -W is given: one that is more
// than a name is left out.
constexpr char kDevices[] =
    "vhostctl list 2>/dev/null | awk 'NR > 1 && NF > 5 && $1 \"/\" $3 ~ /^[A-Za-z0-9._\\/-]+$/ "
    "{ print $1 \"/\" $3 }'";

bool WantsDevice(const Verb& verb) { return absl::StrContains(verb.usage, "DEVICE"); }

std::string OptionsOf(const Verb& verb) {
  std::string names;
  for (const Option& option : Options()) {
    if (Takes(verb, option)) absl::StrAppend(&names, names.empty() ? "" : " ", option.name);
  }
  return names;
}

std::string Bash() {
  std::string verbs;
  std::string cases;
  for (const Verb& verb : Verbs()) {
    absl::StrAppend(&verbs, verbs.empty() ? "" : " ", verb.name);
    absl::StrAppend(&cases, "    ", verb.name, ") options=", Quoted(OptionsOf(verb)),
                    " devices=", WantsDevice(verb) ? "yes" : "", " ;;\n");
  }
  return absl::StrCat(
      "# bash completion for vhostctl\n"
      "_vhostctl() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word "
      "verb=\n"
      "  local options= devices=\n"
      "  COMPREPLY=()\n"
      "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
      "    case $word in -*) ;; *) verb=$word; break ;; esac\n"
      "  done\n"
      "  case $previous in\n"
      "    --to) COMPREPLY=($(compgen -W 'in-process kernel' -- \"$current\")); return ;;\n"
      "    --for) COMPREPLY=($(compgen -W 'net vsock kvm in-process' -- \"$current\")); return ;;\n"
      "    --socket | --textfile | --write | -w) COMPREPLY=($(compgen -f -- \"$current\")); return "
      ";;\n"
      "    --directory) COMPREPLY=($(compgen -d -- \"$current\")); return ;;\n"
      "  esac\n"
      "  case $verb in\n",
      cases, "    *) COMPREPLY=($(compgen -W '", verbs,
      " --help --version' -- \"$current\")); return ;;\n"
      "  esac\n"
      "  if [[ $current == -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n"
      "  elif [[ $devices ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$(",
      kDevices,
      ")\" -- \"$current\"))\n"
      "  fi\n"
      "}\n"
      "complete -F _vhostctl vhostctl\n");
}

// What follows an option's name in zsh's _arguments: the kind of its value.
std::string ZshValue(const Option& option) {
  const absl::string_view name = option.name;
  if (option.value == nullptr) return "";
  if (name == "--to") return ":KIND:(in-process kernel)";
  if (name == "--for") return ":WHAT:(net vsock kvm in-process)";
  if (name == "--socket" || name == "--textfile" || name == "--write") return ":PATH:_files";
  if (name == "--directory") return ":DIR:_files -/";
  return absl::StrCat(":", option.value, ": ");
}

std::string Zsh() {
  std::string verbs;
  std::string cases;
  for (const Verb& verb : Verbs()) {
    absl::StrAppend(&verbs, "    ", Quoted(absl::StrCat(verb.name, ":", verb.summary)), "\n");
    absl::StrAppend(&cases, "    ", verb.name, ")\n      _arguments");
    for (const Option& option : Options()) {
      if (!Takes(verb, option)) continue;
      const std::string help = absl::StrReplaceAll(option.help, {{"[", "("}, {"]", ")"}});
      absl::StrAppend(&cases, " \\\n        ",
                      Quoted(absl::StrCat(option.name, "[", help, "]", ZshValue(option))));
    }
    if (WantsDevice(verb)) absl::StrAppend(&cases, " \\\n        '1:device:_vhostctl_devices'");
    absl::StrAppend(&cases, "\n      ;;\n");
  }
  return absl::StrCat(
      "#compdef vhostctl\n"
      "# zsh completion for vhostctl\n"
      "_vhostctl_devices() {\n"
      "  local -a devices\n"
      "  devices=(${(f)\"$(",
      kDevices,
      ")\"})\n"
      "  compadd -a devices\n"
      "}\n"
      "_vhostctl() {\n"
      "  local -a verbs\n"
      "  verbs=(\n",
      verbs,
      "  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe verb verbs\n"
      "    return\n"
      "  fi\n"
      "  local verb=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $verb in\n",
      cases,
      "  esac\n"
      "}\n"
      "_vhostctl \"$@\"\n");
}

std::string Fish() {
  std::string names;
  for (const Verb& verb : Verbs()) absl::StrAppend(&names, names.empty() ? "" : " ", verb.name);
  std::string text = absl::StrCat("# fish completion for vhostctl\ncomplete -c vhostctl -f\n");
  for (const Verb& verb : Verbs()) {
    absl::StrAppend(&text, "complete -c vhostctl -n 'not __fish_seen_subcommand_from ", names,
                    "' -a ", verb.name, " -d ", Quoted(verb.summary), "\n");
    if (WantsDevice(verb)) {
      absl::StrAppend(&text, "complete -c vhostctl -n '__fish_seen_subcommand_from ", verb.name,
                      "' -a \"(", absl::StrReplaceAll(kDevices, {{"\"", "\\\""}, {"$", "\\$"}}),
                      ")\"\n");
    }
  }
  for (const Option& option : Options()) {
    std::string condition;
    if (!IsCommon(option)) {
      std::string takers;
      for (const Verb& verb : Verbs()) {
        if (Takes(verb, option)) absl::StrAppend(&takers, takers.empty() ? "" : " ", verb.name);
      }
      condition = absl::StrCat(" -n '__fish_seen_subcommand_from ", takers, "'");
    }
    absl::StrAppend(&text, "complete -c vhostctl", condition, " -l ",
                    absl::string_view(option.name).substr(2),
                    option.letter != 0 ? absl::StrCat(" -s ", std::string(1, option.letter)) : "",
                    option.value != nullptr ? " -x" : "", " -d ", Quoted(option.help), "\n");
  }
  return text;
}

}  // namespace

Outcome Completion(const Invocation& invocation) {
  const std::string shell = invocation.arguments.size() == 1 ? invocation.arguments[0] : "";
  if (shell == "bash") return {.out = Bash()};
  if (shell == "zsh") return {.out = Zsh()};
  if (shell == "fish") return {.out = Fish()};
  return WrongUsage("completion takes one argument: bash, zsh or fish");
}

}  // namespace vhost::ctl
