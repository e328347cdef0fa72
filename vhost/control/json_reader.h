// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The archive of report_fields.h that reads. It is given what another process wrote, perhaps one
// that means harm: nothing is assumed of it, and no function of the JSON library is called that
// could throw. Internal to this folder.
#pragma once

#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "vhost/control/json.h"
#include "vhost/control/report_fields.h"
#include "vhost/features.h"

namespace vhost::control {

// "0x" and up to 32 hexadecimal digits.
struct HexNumber {
  uint64_t low = 0;
  uint64_t high = 0;
};
inline std::optional<HexNumber> ParseHex(absl::string_view text) {
  if (text.substr(0, 2) != "0x") return std::nullopt;
  text.remove_prefix(2);
  if (text.empty() || text.size() > 32) return std::nullopt;
  const auto parse = [](absl::string_view digits, uint64_t* to) {
    const char* end = digits.data() + digits.size();
    const auto result = std::from_chars(digits.data(), end, *to, 16);
    return result.ec == std::errc() && result.ptr == end;
  };
  HexNumber number;
  const size_t high_digits = text.size() > 16 ? text.size() - 16 : 0;
  if (high_digits > 0 && !parse(text.substr(0, high_digits), &number.high)) return std::nullopt;
  if (!parse(text.substr(high_digits), &number.low)) return std::nullopt;
  return number;
}

// Reads the members of one object; the first that is wrong is remembered with its path, the rest
// keep their defaults.
class JsonReader {
 public:
  JsonReader(const Json& object, std::string path, absl::Status* error)
      : object_(object), path_(std::move(path)), error_(error) {
    if (!object_.is_object()) Wrong("", "an object");
  }

  void Of(DeviceId) {}

  template <typename T>
  void Value(const char* key, T& to) {
    if (const Json* json = Find(key)) Take(*json, key, to);
  }
  template <typename T>
  void Value(const char* key, std::optional<T>& to) {
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return;
    Take(*json, key, to.emplace());
  }
  template <typename T>
  void Value(const char* key, std::vector<T>& to) {
    for (const Json& json : Array(key)) Take(json, key, to.emplace_back());
  }

  template <typename T>
  void Hex(const char* key, T& to) {
    if (const Json* json = Find(key)) TakeHex(*json, key, to);
  }
  template <typename T>
  void Hex(const char* key, std::optional<T>& to) {
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return;
    TakeHex(*json, key, to.emplace());
  }

  void Fd(const char* key, int& fd) {
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return;
    Take(*json, key, fd);
  }

  template <typename T>
  void Object(const char* key, T& to) {
    if (const Json* json = Find(key)) Read(*json, absl::StrCat(path_, key, "."), to, error_);
  }
  template <typename T>
  void Object(const char* key, std::optional<T>& to) {
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return;
    Read(*json, absl::StrCat(path_, key, "."), to.emplace(), error_);
  }
  template <typename T>
  void List(const char* key, std::vector<T>& to) {
    for (const Json& json : Array(key)) {
      const std::string path = absl::StrCat(path_, key, "[", to.size(), "].");
      Read(json, path, to.emplace_back(), error_);
    }
  }

  template <typename T>
  void Named(const char* key, T& to) {
    std::string name;
    Value(key, name);
    if (!name.empty() && !FromName(name, &to)) Wrong(key, "a known name");
  }
  template <typename T>
  void Named(const char* key, std::optional<T>& to) {
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return;
    Named(key, to.emplace());
  }

  template <typename Bit>
  void Features(const char* key, FeatureSet<Bit>& set) {
    const Json* json = Find(key);
    if (json == nullptr) return;
    if (!json->is_object()) return Wrong(key, "an object");
    const auto bits = json->find("bits");
    if (bits == json->end() || !bits->is_string()) return Wrong(key, "{\"bits\": \"0x...\"}");
    const std::optional<HexNumber> number = ParseHex(bits->get_ref<const std::string&>());
    if (!number.has_value()) return Wrong(key, "bits in hexadecimal");
    set = FeatureSet<Bit>::FromWords(number->low, number->high);
  }

  template <typename Function>
  void Derived(const char*, Function) {}

  template <typename T>
  static void Read(const Json& json, std::string path, T& to, absl::Status* error) {
    JsonReader reader(json, std::move(path), error);
    Fields(reader, to);
  }

 private:
  const Json* Find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }

  // The elements of an array member; none if there is no such member.
  const Json::array_t& Array(const char* key) {
    static const Json::array_t none;
    const Json* json = Find(key);
    if (json == nullptr || json->is_null()) return none;
    if (!json->is_array()) {
      Wrong(key, "a list");
      return none;
    }
    return json->get_ref<const Json::array_t&>();
  }

  void Take(const Json& json, const char* key, std::string& to) {
    if (!json.is_string()) return Wrong(key, "a string");
    to = json.get_ref<const std::string&>();
  }
  void Take(const Json& json, const char* key, bool& to) {
    if (!json.is_boolean()) return Wrong(key, "true or false");
    to = json.get_ref<const bool&>();
  }
  template <typename Number>
  requires std::is_integral_v<Number>
  void Take(const Json& json, const char* key, Number& to) {
    // The library keeps what is not negative as unsigned and the rest as signed.
    if (json.is_number_unsigned()) {
      const uint64_t value = json.get_ref<const uint64_t&>();
      if (value <= static_cast<uint64_t>(std::numeric_limits<Number>::max())) {
        to = static_cast<Number>(value);
        return;
      }
    } else if (json.is_number_integer() && std::is_signed_v<Number>) {
      const int64_t value = json.get_ref<const int64_t&>();
      if (value >= static_cast<int64_t>(std::numeric_limits<Number>::min())) {
        to = static_cast<Number>(value);
        return;
      }
    } else if (!json.is_number_integer()) {
      return Wrong(key, "a whole number");
    }
    Wrong(key, absl::StrCat("a number of up to ", std::numeric_limits<Number>::digits, " bits"));
  }

  template <typename T>
  void TakeHex(const Json& json, const char* key, T& to) {
    std::optional<HexNumber> number;
    if (json.is_string()) number = ParseHex(json.get_ref<const std::string&>());
    if (!number.has_value() || number->high != 0) return Wrong(key, "a hexadecimal string");
    if constexpr (std::is_pointer_v<T>) {
      // An address in the other process: shown, never followed.
      to = reinterpret_cast<T>(static_cast<uintptr_t>(number->low));
    } else if constexpr (std::is_enum_v<T>) {
      to = static_cast<T>(number->low);
    } else {
      if (number->low > std::numeric_limits<T>::max()) return Wrong(key, "a smaller number");
      to = static_cast<T>(number->low);
    }
  }

  static bool FromName(absl::string_view name, BackendKind* to) {
    for (const BackendKind kind :
         {BackendKind::kKernel, BackendKind::kInProcess, BackendKind::kVhostUser}) {
      if (name == Name(kind)) {
        *to = kind;
        return true;
      }
    }
    return false;
  }
  static bool FromName(absl::string_view name, HandoverCause* to) {
    for (const HandoverCause cause :
         {HandoverCause::kRequest, HandoverCause::kFailover, HandoverCause::kMemory}) {
      if (name == Name(cause)) {
        *to = cause;
        return true;
      }
    }
    return false;
  }
  static bool FromName(absl::string_view name, DeviceId* to) {
    constexpr int kLastDeviceId = 64;  // beyond all that virtio 1.3 assigns
    for (int id = 0; id <= kLastDeviceId; ++id) {
      if (name == Name(static_cast<DeviceId>(id))) {
        *to = static_cast<DeviceId>(id);
        return true;
      }
    }
    return false;
  }

  void Wrong(absl::string_view key, absl::string_view wanted) {
    if (!error_->ok()) return;
    std::string where = absl::StrCat(path_, key);
    if (!where.empty() && where.back() == '.') where.pop_back();
    *error_ = absl::InvalidArgumentError(
        absl::StrCat(where.empty() ? "report" : where, ": expected ", wanted));
  }

  const Json& object_;
  const std::string path_;  // "backend.vrings[1]."
  absl::Status* error_;
};

}  // namespace vhost::control
