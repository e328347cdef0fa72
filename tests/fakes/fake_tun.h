// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// An open /dev/net/tun: one queue of an interface, once it is attached. Answers as
// drivers/net/tun.c does. Packets pass: the fd is one end of a SOCK_SEQPACKET pair, and the other
// end (wire_fd) is the network, from which a test reads what the device sent and to which it writes
// what the device is to receive, vnet header included.
#pragma once

#include <cstdint>
#include <string>

#include "kernel-abi/tun.h"
#include "tests/fakes/fake_node.h"

namespace fakes {

class FakeTun final : public FakeNode {
 public:
  explicit FakeTun(FakeWorld& world) : world_(world) {}
  ~FakeTun() override;

  int Ioctl(unsigned long request, uintptr_t argument) override;
  bool carries_data() const override { return true; }
  void Count(OpenState& state) const override { ++state.tun_queues; }

  // Also while detached by TUNSETQUEUE: requests and vhost go on then, but no packets come.
  bool attached() const { return !interface_.empty(); }
  const std::string& interface_name() const { return interface_; }
  // The interface was deleted under it (ip link del).
  void ForgetInterface() { interface_.clear(); }

 private:
  int SetInterface(uintptr_t argument);
  int SetQueue(uintptr_t argument);
  int Attach(FakeInterface& interface);
  int QueueRequest(FakeInterface& interface, unsigned long request, uintptr_t argument);
  int SetOffloads(FakeInterface& interface, unsigned long offloads) const;
  void Leave();

  FakeWorld& world_;
  std::string interface_;  // empty: none
  bool detached_ = false;  // TUNSETQUEUE(IFF_DETACH_QUEUE)
};

}  // namespace fakes
