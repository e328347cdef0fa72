// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The archive of report_fields.h that writes. Internal to this folder.
#pragma once

#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/str_format.h"
#include "vhost/control/json.h"
#include "vhost/control/report_fields.h"
#include "vhost/features.h"

namespace vhost::control {

// "0x0" and so on; 128 bits need two words.
inline std::string HexText(uint64_t low, uint64_t high = 0) {
  if (high != 0) return absl::StrFormat("0x%x%016x", high, low);
  return absl::StrFormat("0x%x", low);
}

class JsonWriter {
 public:
  explicit JsonWriter(DeviceId id = DeviceId::kNet) : id_(id) {}

  void Of(DeviceId id) { id_ = id; }

  template <typename T>
  void Value(const char* key, const T& value) {
    json_[key] = value;
  }
  template <typename T>
  void Value(const char* key, const std::optional<T>& value) {
    json_[key] = value.has_value() ? Json(*value) : Json(nullptr);
  }

  template <typename T>
  void Hex(const char* key, const T& value) {
    if constexpr (std::is_pointer_v<T>) {
      json_[key] = HexText(reinterpret_cast<uintptr_t>(value));
    } else {
      json_[key] = HexText(static_cast<uint64_t>(value));
    }
  }
  template <typename T>
  void Hex(const char* key, const std::optional<T>& value) {
    json_[key] = value.has_value() ? Json(HexText(*value)) : Json(nullptr);
  }

  void Fd(const char* key, int fd) { json_[key] = fd >= 0 ? Json(fd) : Json(nullptr); }

  template <typename T>
  void Object(const char* key, const T& value) {
    json_[key] = Write(value);
  }
  template <typename T>
  void Object(const char* key, const std::optional<T>& value) {
    json_[key] = value.has_value() ? Write(*value) : Json(nullptr);
  }
  template <typename T>
  void List(const char* key, const std::vector<T>& values) {
    Json list = Json::array();
    for (const T& value : values) list.push_back(Write(value));
    json_[key] = std::move(list);
  }

  template <typename T>
  void Named(const char* key, const T& value) {
    json_[key] = std::string(Name(value));
  }
  template <typename T>
  void Named(const char* key, const std::optional<T>& value) {
    json_[key] = value.has_value() ? Json(std::string(Name(*value))) : Json(nullptr);
  }

  template <typename Bit>
  void Features(const char* key, const FeatureSet<Bit>& set) {
    Json features = Json::object();
    features["bits"] = HexText(set.low(), set.high());
    features["names"] = FeatureNames(id_, set);
    json_[key] = std::move(features);
  }

  template <typename Function>
  void Derived(const char* key, Function value) {
    json_[key] = value();
  }

  template <typename T>
  Json Write(const T& value) const {
    JsonWriter writer(id_);
    Fields(writer, value);
    return std::move(writer.json_);
  }

 private:
  DeviceId id_;
  Json json_ = Json::object();
};

}  // namespace vhost::control
