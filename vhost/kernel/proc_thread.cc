// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/kernel/proc_thread.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernel-abi/unique_fd.h"

namespace vhost {
namespace {

// PROC_PID_INIT_INO of the kernel: the inode number of the first pid namespace.
constexpr ino_t kInitialPidNamespace = 0xEFFFFFFC;

std::optional<std::string> ReadFile(const std::string& path) {
  const kernel_abi::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return std::nullopt;
  std::string text;
  char buffer[4096];
  ssize_t length = 0;
  while ((length = ::read(fd.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(length));
  }
  if (length < 0) return std::nullopt;
  return text;
}

// Any thread's directory has this path, though a listing of /proc shows only the first of each
// process.
std::string PathOf(pid_t tid, absl::string_view file) {
  return absl::StrCat("/proc/", tid, "/", file);
}

}  // namespace

std::vector<pid_t> ThreadsOfThisProcess() {
  std::vector<pid_t> tids;
  DIR* directory = ::opendir("/proc/self/task");
  if (directory == nullptr) return tids;
  const absl::Cleanup close = [directory] { ::closedir(directory); };
  while (const dirent* entry = ::readdir(directory)) {
    pid_t tid = 0;
    if (absl::SimpleAtoi(entry->d_name, &tid)) tids.push_back(tid);
  }
  return tids;
}

TidCounter::TidCounter() : file_(::open("/proc/sys/kernel/ns_last_pid", O_RDONLY | O_CLOEXEC)) {
  // The first says nothing else, and is there in kernels that can restore a process from a file.
  if (!file_.valid()) file_.Reset(::open("/proc/loadavg", O_RDONLY | O_CLOEXEC));
  struct stat status {};
  tids_are_the_kernels_ =
      ::stat("/proc/self/ns/pid", &status) == 0 && status.st_ino == kInitialPidNamespace;
}

pid_t TidCounter::Last() const {
  char text[128];
  const ssize_t length = file_.valid() ? ::pread(file_.get(), text, sizeof(text), 0) : -1;
  if (length <= 0) return 0;
  return internal::LastNumber(absl::string_view(text, static_cast<size_t>(length)));
}

std::string ThreadName(pid_t tid) {
  const kernel_abi::UniqueFd fd(::open(PathOf(tid, "comm").c_str(), O_RDONLY | O_CLOEXEC));
  char name[64];  // TASK_COMM_LEN is 16; kernel threads' may be longer.
  const ssize_t length = fd.valid() ? ::read(fd.get(), name, sizeof(name)) : -1;
  if (length <= 0) return {};
  return std::string(absl::StripAsciiWhitespace({name, static_cast<size_t>(length)}));
}

std::optional<ThreadFacts> ReadThreadFacts(pid_t tid) {
  ThreadFacts facts{.name = ThreadName(tid)};
  if (facts.name.empty()) return std::nullopt;
  if (const auto schedstat = ReadFile(PathOf(tid, "schedstat")); schedstat.has_value()) {
    // Nanoseconds on a CPU, nanoseconds waiting for one, times run.
    const std::vector<absl::string_view> words = absl::StrSplit(*schedstat, ' ');
    uint64_t ns = 0;
    if (absl::SimpleAtoi(words[0], &ns)) facts.cpu_time_ns = ns;
  }
  if (const auto status = ReadFile(PathOf(tid, "status")); status.has_value()) {
    facts.affinity = internal::AffinityFromStatus(*status);
  }
  if (const auto stat = ReadFile(PathOf(tid, "stat")); stat.has_value()) {
    facts.nice = internal::NiceFromStat(*stat);
  }
  if (const auto cgroup = ReadFile(PathOf(tid, "cgroup")); cgroup.has_value()) {
    facts.cgroup = internal::CgroupPath(*cgroup);
  }
  return facts;
}

namespace internal {

pid_t LastNumber(absl::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  pid_t number = 0;
  return absl::SimpleAtoi(text.substr(text.rfind(' ') + 1), &number) ? number : 0;
}

std::optional<int> NiceFromStat(absl::string_view stat) {
  // Fields are counted from behind the name, which may hold spaces and parentheses: nice is the
  // 19th of all, the 17th after it (proc(5)).
  const size_t end_of_name = stat.rfind(')');
  if (end_of_name == absl::string_view::npos) return std::nullopt;
  const std::vector<absl::string_view> fields =
      absl::StrSplit(stat.substr(end_of_name + 1), ' ', absl::SkipEmpty());
  constexpr size_t kNice = 16;
  int nice = 0;
  if (fields.size() <= kNice || !absl::SimpleAtoi(fields[kNice], &nice)) return std::nullopt;
  return nice;
}

std::optional<std::string> AffinityFromStatus(absl::string_view status) {
  for (absl::string_view line : absl::StrSplit(status, '\n')) {
    if (absl::ConsumePrefix(&line, "Cpus_allowed_list:")) {
      return std::string(absl::StripAsciiWhitespace(line));
    }
  }
  return std::nullopt;
}

std::optional<std::string> CgroupPath(absl::string_view cgroup) {
  std::vector<std::string> others;
  for (absl::string_view line : absl::StrSplit(cgroup, '\n', absl::SkipEmpty())) {
    if (absl::ConsumePrefix(&line, "0::")) return std::string(line);
    // "4:cpu,cpuacct:/machine": the number says nothing to a person.
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (parts.size() == 2) others.push_back(std::string(parts[1]));
  }
  if (others.empty()) return std::nullopt;
  return absl::StrJoin(others, " ");
}

}  // namespace internal
}  // namespace vhost
