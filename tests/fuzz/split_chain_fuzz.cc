// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fuzz/ring_fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::RingFuzz(vhost::VringLayout::kSplit, fuzz::Input(data, size)).Run();
  return 0;
}
