// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

#include "absl/status/status.h"

namespace vhost {

// Whether this process may open `needed` more file descriptors. RESOURCE_EXHAUSTED names the limit
// and how to raise it. Other threads may open some at the same time, so this is for a message that
// comes early and says all, not for safety: each open can still fail by itself.
absl::Status CheckFdBudget(int needed);

}  // namespace vhost
