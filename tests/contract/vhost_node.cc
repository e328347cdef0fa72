// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/contract/vhost_node.h"

namespace contract {

using namespace kernel_abi;  // NOLINT

void VhostNode::Prepare() {
  ASSERT_EQ(SetOwner(), Ok());
  ASSERT_EQ(SetTable(), Ok());
  for (unsigned index = 0; index < 2; ++index) {
    ASSERT_EQ(Num(index, 256), Ok());
    ASSERT_EQ(Address(memory_.Ring(index)), Ok());
  }
}

unsigned VhostNode::GetBase(unsigned index) {
  vhost_vring_state state = {index, 0xdead};
  EXPECT_EQ(Ask(fd(), kVhostGetVringBase, state), Ok());
  return state.num;
}

UniqueFd VhostNode::OpenTap() {
  UniqueFd tap = Open(kTunPath);
  ifreq request = InterfaceRequest("", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  EXPECT_EQ(Ask(tap.get(), kTunSetIff, request), Ok());
  return tap;
}

Answer VhostNode::Start() {
  if (node_ == Node::kVsock) return Running(1);
  if (!tap_.valid()) tap_ = OpenTap();
  for (unsigned index = 0; index < 2; ++index) {
    if (const Answer answer = Attach(index, tap_.get()); answer != Ok()) return answer;
  }
  return Ok();
}

Answer VhostNode::Stop() {
  if (node_ == Node::kVsock) return Running(0);
  for (unsigned index = 0; index < 2; ++index) {
    if (const Answer answer = Attach(index, -1); answer != Ok()) return answer;
  }
  return Ok();
}

}  // namespace contract
