// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/version.h"

namespace vhost {

const char* LibraryVersion() { return LIBVHOST_VERSION; }

}  // namespace vhost
