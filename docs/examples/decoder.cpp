// Continues a conversation with decoder.onnx: the likeliest tokens after each turn, one turn a line.
//
//     decoder out/decoder.onnx 24 73,116,32,105,115 65,110,100,63
//
// reads a first turn of five tokens and a second of four, and writes 24 tokens after each.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

constexpr size_t PIECE = 256;  // a call compares all its tokens with each other, so prompts are read in pieces

class Decoder {
   public:
    explicit Decoder(const char* file) : session(env, file, Ort::SessionOptions()), binding(session) {
        Ort::AllocatorWithDefaultOptions allocator;
        for (size_t i = 2; i < session.GetInputCount(); ++i) {  // the states follow input_ids and position_ids
            auto info = session.GetInputTypeInfo(i);
            auto shape = info.GetTensorTypeAndShapeInfo().GetShape();
            shape[0] = 1;  // one row
            auto type = info.GetTensorTypeAndShapeInfo().GetElementType();
            states.push_back(Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), type));
            std::memset(states.back().GetTensorMutableRawData(), 0, states.back().GetTensorSizeInBytes());
            binding.BindInput(session.GetInputNameAllocated(i, allocator).get(), states.back());
            binding.BindOutput(session.GetOutputNameAllocated(i - 1, allocator).get(), states.back());  // in place
        }
        binding.BindOutput("logits", memory);
    }

    // Reads further tokens, and returns the likeliest next one.
    int64_t read(std::vector<int64_t> ids) {
        for (size_t start = 0; start < ids.size(); start += PIECE) {
            std::vector<int64_t> positions(std::min(PIECE, ids.size() - start));
            for (int64_t& at : positions) at = position++;
            const int64_t shape[] = {1, static_cast<int64_t>(positions.size())};
            binding.BindInput("input_ids", tensor(ids.data() + start, shape));
            binding.BindInput("position_ids", tensor(positions.data(), shape));
            session.Run(Ort::RunOptions(), binding);
        }
        auto values = binding.GetOutputValues();
        auto& logits = values.back();  // [1, 1, vocab], those of the last token
        const float* first = logits.GetTensorData<float>();
        return std::max_element(first, first + logits.GetTensorTypeAndShapeInfo().GetElementCount()) - first;
    }

   private:
    Ort::Value tensor(int64_t* data, const int64_t (&shape)[2]) {
        return Ort::Value::CreateTensor<int64_t>(memory, data, shape[1], shape, 2);
    }

    Ort::Env env;
    Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    Ort::Session session;
    Ort::IoBinding binding;
    std::vector<Ort::Value> states;
    int64_t position = 0;
};

int main(int count, char** words) try {
    if (count < 4) throw std::invalid_argument("usage: decoder FILE TOKENS ID,ID,.. [ID,ID,..]");
    Decoder decoder(words[1]);
    std::vector<int64_t> unread;
    for (int turn = 3; turn < count; ++turn) {
        std::istringstream text(words[turn]);
        for (std::string id; std::getline(text, id, ',');) unread.push_back(std::stoll(id));
        for (int left = std::stoi(words[2]); left > 0; --left) {
            unread = {decoder.read(unread)};  // the last token of a turn is read with the next one
            std::cout << unread.front() << (left > 1 ? ' ' : '\n') << std::flush;
        }
    }
} catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
