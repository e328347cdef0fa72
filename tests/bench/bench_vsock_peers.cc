// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// In-process vsock beside vhost-vsock, without a guest: the same driver, served by the one and by
// the other in turns. The host's program has a socket of AF_VSOCK there and a unix socket here.
// Needs /dev/vhost-vsock and root (scripts/vm).
//
//   bench_vsock_peers [--rounds N] [--mib N] [--check]
//
// A stream, each way, in packets (to the host) or writes (to the guest, whose buffers have 4 KiB)
// of 64 KiB and of 4 KiB. Driver, server and the host's program have threads of their own and sleep
// while they wait: that they wake each other counts. With --check the exit code is 1 if one is
// below 0.9 of vhost-vsock's bytes per second (median of the pairs).
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench_options.h"
#include "tests/bench/bench_pairs.h"
#include "tests/bench/vsock_bench_guest.h"
#include "tests/integration/vsock_address.h"
#include "vhost/inprocess/vsock_backend.h"
#include "vhost/kernel/vsock_backend.h"

namespace vhost::bench {
namespace {

constexpr double kGoal = 0.9;

kernel_abi::UniqueFd ListenOnVsock() {
  kernel_abi::UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const VsockAddress address{.port = kPort, .cid = 0xffffffff};
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd.get(), 1) != 0) {
    Die("AF_VSOCK: cannot listen");
  }
  return fd;
}

int Main(int argc, char** argv) {
  BenchOptions options{.mib = 16};
  if (const auto code =
          ReadOptions(argc, argv, "bench_vsock_peers [--rounds N] [--mib N] [--check]", options)) {
    return *code;
  }
  char folder[] = "/tmp/bench_vsock_peers.XXXXXX";
  if (mkdtemp(folder) == nullptr) Die("mkdtemp");
  const std::string path = absl::StrCat(folder, "/v.sock");
  bool all_met = true;
  {
    kernel_abi::Kernel& linux_kernel = kernel_abi::LinuxKernel();
    VsockThreads kernel(OrDie(VsockBackend::Create(linux_kernel, {.cid = kCid})), ListenOnVsock());
    VsockThreads process(OrDie(inprocess::InProcessVsockBackend::Create(
                             linux_kernel, {.guest_cid = kCid, .host = {.uds_path = path}})),
                         ListenAt(absl::StrCat(path, "_", kPort)));
    const size_t bytes = static_cast<size_t>(options.mib) << 20;
    for (const uint32_t piece : {kPacket, uint32_t{4096}}) {
      for (const bool to_host : {true, false}) {
        const auto us_per_mib = [&](VsockThreads& threads) {
          const auto work = [&] {
            to_host ? threads.ToHost(bytes, piece) : threads.ToGuest(bytes, piece);
          };
          return 1e6 / MibPerSecond(bytes, work);
        };
        us_per_mib(kernel);
        us_per_mib(process);
        const Compared compared = InPairs(
            options.rounds, [&] { return us_per_mib(kernel); },
            [&] { return us_per_mib(process); });
        const bool met = Tell(absl::StrCat(to_host ? "to host" : "to guest", ", by ", piece / 1024,
                                           " KiB, a MiB: vhost-vsock, ours"),
                              compared, "us", 1 / compared.ratio, kGoal, true);
        all_met = all_met && met;
      }
    }
  }
  std::remove(absl::StrCat(path, "_", kPort).c_str());
  std::remove(folder);
  return options.check && !all_met ? 1 : 0;
}

}  // namespace
}  // namespace vhost::bench

int main(int argc, char** argv) { return vhost::bench::Main(argc, argv); }
