// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/call_log.h"

#include <cstring>
#include <functional>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/kvm.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "kernel-abi/vhost.h"
#include "tests/fakes/user_memory.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT: the requests, by their names

struct Decoder {
  std::string name;
  std::function<std::string(uintptr_t)> arguments;
};

template <typename T>
inline constexpr bool kIsTable = false;
template <typename Entry>
inline constexpr bool kIsTable<EntryTable<Entry>> = true;

template <typename Argument>
std::string Show(const Request<Argument>& request, const Argument& argument) {
  return request.describe != nullptr ? request.describe(argument) : Describe(argument);
}

template <typename Entry>
std::string ShowTable(const Request<EntryTable<Entry>>& request, uintptr_t address) {
  uint32_t count = 0;
  if (Get(&count, address) != 0 || count > 4096) return "unreadable";
  EntryTable<Entry> table(count);
  if (CopyFromUser(table.entries().data(), address + 8, table.entries().size_bytes()) != 0) {
    return "unreadable";
  }
  return Show(request, table);
}

class Decoders {
 public:
  template <typename Argument>
  void Add(const Request<Argument>& request) {
    by_number_[request.number] = {
        request.name, [&request](uintptr_t address) -> std::string {
          (void)request;  // Some have nothing to show.
          if constexpr (std::is_same_v<Argument, Nothing>) {
            return {};
          } else if constexpr (kernel_abi::internal::kIsByValue<Argument>) {
            return Show(request, Argument{static_cast<decltype(Argument::value)>(address)});
          } else if constexpr (kIsTable<Argument>) {
            return ShowTable(request, address);
          } else if constexpr (std::is_same_v<Argument, MacFilter>) {
            return "addresses";
          } else {
            Argument argument = {};
            return Get(&argument, address) == 0 ? Show(request, argument) : "unreadable";
          }
        }};
  }

  const Decoder* Find(unsigned long number) const {
    const auto found = by_number_.find(number);
    return found == by_number_.end() ? nullptr : &found->second;
  }

 private:
  std::map<unsigned long, Decoder> by_number_;
};

template <typename... Requests>
void AddAll(Decoders& decoders, const Requests&... requests) {
  (decoders.Add(requests), ...);
}

const Decoders& AllDecoders() {
  static const Decoders* decoders = [] {
    auto* made = new Decoders;
    AddAll(*made, kVhostGetFeatures, kVhostSetFeatures, kVhostGetFeaturesArray,
           kVhostSetFeaturesArray, kVhostGetBackendFeatures, kVhostSetBackendFeatures,
           kVhostSetOwner, kVhostResetOwner, kVhostSetForkFromOwner, kVhostGetForkFromOwner,
           kVhostSetMemTable, kVhostSetLogBase, kVhostSetLogFd, kVhostSetVringNum,
           kVhostSetVringAddr, kVhostSetVringBase, kVhostGetVringBase, kVhostSetVringKick,
           kVhostSetVringCall, kVhostSetVringErr, kVhostSetVringEndian, kVhostGetVringEndian,
           kVhostSetVringBusyloopTimeout, kVhostGetVringBusyloopTimeout, kVhostNewWorker,
           kVhostFreeWorker, kVhostAttachVringWorker, kVhostGetVringWorker, kVhostNetSetBackend,
           kVhostVsockSetGuestCid, kVhostVsockSetRunning);
    AddAll(*made, kTunSetIff, kTunGetIff, kTunSetQueue, kTunGetFeatures, kTunSetIfIndex,
           kTunSetPersist, kTunSetOwner, kTunSetGroup, kTunSetLink, kTunSetCarrier, kTunGetDevNetns,
           kTunSetOffload, kTunSetVnetHdrSz, kTunGetVnetHdrSz, kTunSetVnetLe, kTunGetVnetLe,
           kTunSetVnetBe, kTunGetVnetBe, kTunSetSndBuf, kTunGetSndBuf, kTunSetTxFilter,
           kTunGetHardwareAddress, kTunSetHardwareAddress);
    AddAll(*made, kKvmGetApiVersion, kKvmCreateVm, kKvmGetVcpuMmapSize, kKvmCheckExtension,
           kKvmSetUserMemoryRegion, kKvmGetDirtyLog, kKvmClearDirtyLog, kKvmIoEventFd, kKvmIrqFd,
           kKvmSetGsiRouting, kKvmSignalMsi, kKvmIrqLine, kKvmEnableCap, kKvmCreateVcpu,
           kKvmCreateIrqchip, kKvmCreatePit2, kKvmSetTssAddr, kKvmSetIdentityMapAddr);
    return made;
  }();
  return *decoders;
}

}  // namespace

std::string LoggedCall::Text() const {
  const std::string call = arguments.empty() ? name : absl::StrCat(name, "(", arguments, ")");
  if (result >= 0) return call;
  return absl::StrCat(call, " = ", ErrnoText(static_cast<int>(-result)));
}

LoggedCall DecodeIoctl(int fd, unsigned long request, uintptr_t argument) {
  LoggedCall call{.fd = fd};
  const Decoder* decoder = AllDecoders().Find(request);
  if (decoder == nullptr) {
    call.name = absl::StrFormat("ioctl %#x", request);
  } else {
    call.name = decoder->name;
    call.arguments = decoder->arguments(argument);
  }
  return call;
}

std::vector<std::string> Names(const std::vector<LoggedCall>& calls, absl::string_view prefix) {
  std::vector<std::string> names;
  for (const LoggedCall& call : calls) {
    if (absl::StartsWith(call.name, prefix)) names.push_back(call.name);
  }
  return names;
}

}  // namespace fakes
