// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include <string>
#include <tuple>

#include "kernel-abi/tun.h"
#include "tests/contract/kernel_under_test.h"

namespace contract {

enum class Node { kNet, kVsock };
inline const char* Path(Node node) {
  return node == Node::kNet ? kernel_abi::kVhostNetPath : kernel_abi::kVhostVsockPath;
}

// One vhost fd of either kind.
class VhostNode : public KernelUnderTest {
 protected:
  void Begin(const Side& side, Node node) {
    KernelUnderTest::Begin(side, Path(node));
    if (IsSkipped()) return;
    node_ = node;
    fd_ = KernelUnderTest::Open(Path(node));
  }

  int fd() const { return fd_.get(); }
  Node node() const { return node_; }
  Answer SetOwner() { return Ask(fd(), kernel_abi::kVhostSetOwner); }
  // Owner, memory table, and both rings of 256 entries.
  void Prepare();
  Answer SetTable() { return Ask(fd(), kernel_abi::kVhostSetMemTable, memory_.Table()); }
  Answer Num(unsigned index, unsigned num) {
    return Ask(fd(), kernel_abi::kVhostSetVringNum, {index, num});
  }
  Answer Base(unsigned index, unsigned base) {
    return Ask(fd(), kernel_abi::kVhostSetVringBase, {index, base});
  }
  unsigned GetBase(unsigned index);
  Answer Address(const vhost_vring_addr& address) {
    vhost_vring_addr copy = address;
    return Ask(fd(), kernel_abi::kVhostSetVringAddr, copy);
  }
  Answer Features(uint64_t features) { return Ask(fd(), kernel_abi::kVhostSetFeatures, features); }

  // Starts or stops all rings, in the way of the kind: TAP attached, or SET_RUNNING.
  Answer Start();
  Answer Stop();
  Answer Attach(unsigned index, int tap) {
    return Ask(fd(), kernel_abi::kVhostNetSetBackend, {index, tap});
  }
  // A new TAP queue, alone on its interface; removed when closed.
  kernel_abi::UniqueFd OpenTap();
  Answer Running(int run) { return Ask(fd(), kernel_abi::kVhostVsockSetRunning, run); }

  kernel_abi::UniqueFd fd_;
  kernel_abi::UniqueFd tap_;
  Memory memory_;
  Node node_ = Node::kNet;
};

// The cases that hold for both kinds.
class VhostContract : public VhostNode, public testing::WithParamInterface<std::tuple<Side, Node>> {
 protected:
  void SetUp() override { Begin(std::get<0>(GetParam()), std::get<1>(GetParam())); }
};

inline std::string NodeName(const testing::TestParamInfo<std::tuple<Side, Node>>& info) {
  return Name(std::get<0>(info.param)) +
         (std::get<1>(info.param) == Node::kNet ? "_net" : "_vsock");
}
inline auto AllNodes() {
  return testing::Combine(testing::ValuesIn(AllSides()), testing::Values(Node::kNet, Node::kVsock));
}
inline std::string SideName(const testing::TestParamInfo<Side>& info) { return Name(info.param); }

}  // namespace contract
