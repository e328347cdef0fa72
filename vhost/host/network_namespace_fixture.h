// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// For tests that make network interfaces: a network namespace of the test's own, so that nothing of
// the machine is touched. Root is not needed where user namespaces are to be had.
#pragma once

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include "absl/status/statusor.h"
#include "vhost/host/link.h"

namespace vhost {

class NetworkNamespaceTest : public testing::Test {
 protected:
  void SetUp() override {
    // Once a process: a namespace in a namespace would do no harm, but cost tens of milliseconds.
    static const bool entered = Enter();
    if (!entered) GTEST_SKIP() << "skipped: no network namespace of our own (unshare)";
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) GTEST_SKIP() << "skipped: no /dev/net/tun";
  }

 private:
  static bool Enter() {
    if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return false;
    // Other tests of this process stay in it, and may want to talk to themselves.
    absl::StatusOr<Links> links = Links::Open();
    return links.ok() && links->SetUp("lo", true).ok();
  }
};

}  // namespace vhost
