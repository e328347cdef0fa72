// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <fcntl.h>
#include <sys/eventfd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "kernel-abi/vhost.h"
#include "vhost/backend.h"
#include "vhost/features.h"

namespace vhost {

// A queue pair of vhost-net by the bare requests that serving it takes, error eventfds and the kick
// and call after the start included: the least that the library's own work is measured against.
// Dies of any error.
class BareNet {
 public:
  explicit BareNet(kernel_abi::Kernel& kernel) : kernel_(kernel) {
    fd_.Reset(Check(kernel_.Open(kernel_abi::kVhostNetPath, O_RDWR)));
    uint64_t offered = 0;
    Ioctl(VHOST_GET_FEATURES, &offered);
    Ioctl(VHOST_SET_OWNER, nullptr);
    for (kernel_abi::UniqueFd& error : errors_) {
      error.Reset(Check(kernel_.EventFd(0, EFD_NONBLOCK)));
    }
  }

  void Start(const BackendStart& start, int tap_fd, bool first_time) {
    if (first_time) {
      uint64_t features =
          ToVhost(DeviceId::kNet, start.acked, VhostFeatures::FromWords(~0ull)).low();
      Ioctl(VHOST_SET_FEATURES, &features);
      SetMemory(*start.memory);
    }
    for (const BackendVring& vring : start.vrings) {
      const auto index = static_cast<unsigned>(vring.queue);
      vhost_vring_state size{.index = index, .num = vring.vring.size()};
      Ioctl(VHOST_SET_VRING_NUM, &size);
      vhost_vring_state base{.index = index, .num = vring.base};
      Ioctl(VHOST_SET_VRING_BASE, &base);
      vhost_vring_addr address{.index = index,
                               .flags = 0,
                               .desc_user_addr = Address(vring.vring.desc()),
                               .used_user_addr = Address(vring.vring.device()),
                               .avail_user_addr = Address(vring.vring.driver()),
                               .log_guest_addr = 0};
      Ioctl(VHOST_SET_VRING_ADDR, &address);
      if (first_time) SetFile(VHOST_SET_VRING_ERR, index, errors_[index].get());
      SetFile(VHOST_SET_VRING_CALL, index, vring.call_fd);
      SetFile(VHOST_SET_VRING_KICK, index, vring.kick_fd);
    }
    for (unsigned index = 0; index < 2; ++index) SetFile(VHOST_NET_SET_BACKEND, index, tap_fd);
    const uint64_t one = 1;
    for (const BackendVring& vring : start.vrings) {
      Check(static_cast<int>(kernel_.Write(vring.kick_fd, &one, sizeof(one))));
      Check(static_cast<int>(kernel_.Write(vring.call_fd, &one, sizeof(one))));
    }
  }

  void SetMemory(const MemoryTable& table) {
    struct Region {
      uint64_t start, size, host, flags;
    };
    std::vector<uint64_t> words(1 + 4 * table.merged().size());
    words[0] = table.merged().size();
    auto* region = reinterpret_cast<Region*>(&words[1]);
    for (const MemoryRegion& from : table.merged()) {
      *region++ = {Value(from.start), from.size, Address(from.host), 0};
    }
    Ioctl(VHOST_SET_MEM_TABLE, words.data());
  }

  void Stop(const BackendStart& start) {
    for (unsigned index = 0; index < 2; ++index) SetFile(VHOST_NET_SET_BACKEND, index, -1);
    for (unsigned index = 0; index < start.vrings.size(); ++index) {
      vhost_vring_state state{.index = index, .num = 0};
      Ioctl(VHOST_GET_VRING_BASE, &state);
    }
    for (unsigned index = 0; index < start.vrings.size(); ++index) {
      SetFile(VHOST_SET_VRING_KICK, index, -1);
      SetFile(VHOST_SET_VRING_CALL, index, -1);
    }
  }

 private:
  static uint64_t Address(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
  static int Check(int result) {
    if (result >= 0) return result;
    std::fprintf(stderr, "bare request failed: errno %d\n", -result);
    std::exit(2);
  }
  void Ioctl(unsigned long request, void* argument) {
    Check(kernel_.Ioctl(fd_.get(), request, Address(argument)));
  }
  void SetFile(unsigned long request, unsigned index, int file) {
    vhost_vring_file argument{.index = index, .fd = file};
    Ioctl(request, &argument);
  }

  kernel_abi::Kernel& kernel_;
  kernel_abi::UniqueFd fd_;
  kernel_abi::UniqueFd errors_[2];
};

}  // namespace vhost
