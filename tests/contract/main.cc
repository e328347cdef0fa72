// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include <sched.h>

#include "gtest/gtest.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  // Interfaces that real cases make are nobody else's business. Without the right to a namespace of
  // our own there is none to make interfaces either, and those cases skip.
  (void)::unshare(CLONE_NEWNET);
  return RUN_ALL_TESTS();
}
