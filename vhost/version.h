// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#pragma once

namespace vhost {

// "0.1.0": of the library that is linked, which need not be that of this header.
const char* LibraryVersion();

}  // namespace vhost
