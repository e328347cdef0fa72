// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "src/vhostctl/metrics/device_metrics.h"
#include "src/vhostctl/metrics/scrape_server.h"
#include "src/vhostctl/verb.h"
#include "src/vhostctl/whole_file.h"

namespace vhost::ctl {
namespace {

Exposition Look(const Invocation& invocation, const Gathered& gathered) {
  std::vector<ForeignProcess> foreign;
  if (invocation.socket.empty() && invocation.directory.empty()) {
    std::set<pid_t> ours;
    for (const ProcessReports& process : gathered.processes) ours.insert(process.process.pid);
    foreign = FindForeign(ours);
  }
  return MetricsOf(gathered, foreign);
}

// Until SIGTERM or SIGINT, which is how a service is ended.
Outcome Serve(const Invocation& invocation) {
  absl::StatusOr<ListeningSocket> socket = Listen(invocation.listen);
  if (absl::IsInvalidArgument(socket.status()) && kernel_abi::GetErrno(socket.status()) == 0) {
    return WrongUsage(absl::StrCat("--listen: ", std::string(socket.status().message())));
  }
  if (!socket.ok()) return Failed(socket.status());
  sigset_t ends;
  sigset_t before;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  // Before there are threads, which inherit it.
  pthread_sigmask(SIG_BLOCK, &ends, &before);
  const kernel_abi::UniqueFd signals(signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) {
    return Failed(
        kernel_abi::MakeSystemError({.error = errno, .subject = "metrics", .call = "signalfd"}));
  }
  const std::string url = socket->url;
  auto server = ScrapeServer::Create(
      *std::move(socket), [&invocation] { return Look(invocation, Gather(invocation)); });
  if (!server.ok()) return Failed(server.status());
  if (invocation.write != nullptr) invocation.write(absl::StrCat("listening on ", url, "\n"));
  const absl::Status served = (*server)->Run(signals.get());
  // Taken, so that it does not end the process after all.
  signalfd_siginfo info;
  while (read(signals.get(), &info, sizeof(info)) > 0) continue;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return served.ok() ? Outcome{} : Failed(served);
}

}  // namespace

Outcome Metrics(const Invocation& invocation) {
  if (!invocation.arguments.empty()) return WrongUsage("metrics takes no arguments");
  if (invocation.json) return WrongUsage("metrics has a format of its own; see show --json");
  const std::string& path = invocation.textfile;
  if (!path.empty() && !absl::EndsWith(path, ".prom")) {
    return WrongUsage("--textfile: the collector reads files that end with .prom");
  }
  if (!invocation.listen.empty()) {
    if (!path.empty()) return WrongUsage("metrics: either --listen or --textfile");
    return Serve(invocation);
  }
  const Gathered gathered = Gather(invocation);
  const Exposition exposition = Look(invocation, gathered);
  Outcome outcome = {.code = gathered.code, .err = gathered.errors};
  if (path.empty()) {
    outcome.out = exposition.Text(MetricFormat::kOpenMetrics);
    return outcome;
  }
  // The collector runs as another user.
  const absl::Status written = WriteWhole(path, exposition.Text(MetricFormat::kText), 0644);
  return written.ok() ? outcome : Failed(written);
}

}  // namespace vhost::ctl
