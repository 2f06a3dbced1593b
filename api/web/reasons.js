// Why no model reads a study, in Vietnamese, and what was put right first. The server's sentences (inference/eligibility.py,
// decoding.py, pixels.py, gate.py) are English; one that is not in this table is shown as it came. {1} is the first part in brackets.

const FRONTAL = "only frontal chest radiographs are";
const ONLY = "chỉ đọc phim ngực thẳng";

const REASONS_VI = [
  [`an object without modality is not read by the model: ${FRONTAL}`, `mô hình không đọc đối tượng không ghi loại máy: ${ONLY}`],
  [`a secondary capture is not read by the model: ${FRONTAL}`, `mô hình không đọc ảnh chụp lại (secondary capture): ${ONLY}`],
  [`this kind of object is not read by the model: ${FRONTAL}`, `mô hình không đọc loại đối tượng này: ${ONLY}`],
  [`body part (.+) is not read by the model: ${FRONTAL}`, `mô hình không đọc vùng chụp {1}: ${ONLY}`],
  [`(.+) is not read by the model: ${FRONTAL}`, `mô hình không đọc {1}: ${ONLY}`],
  ["raw detector data \\(For Processing\\) is not read by the model.*", "mô hình không đọc dữ liệu thô của đầu thu (For Processing)"],
  ["there is no image in it.*", "không có ảnh trong tệp"],
  ["the image is too small to read: (.+) pixels.*", "ảnh quá nhỏ để đọc: {1} điểm ảnh"],
  ["the image is too large to read: (.+) pixels.*", "ảnh quá lớn để đọc: {1} điểm ảnh"],
  ["it has (.+) frames: only single images are read", "tệp có {1} khung hình: chỉ đọc ảnh đơn"],
  ["it is not a grey image: (.+)", "không phải ảnh thang xám: {1}"],
  ["(.+) bits a pixel cannot be read: 8 to 16 can", "không đọc được {1} bit mỗi điểm ảnh: chỉ 8 đến 16"],
  ["the patient is under (.+) years old: the model knows adults only", "bệnh nhân dưới {1} tuổi: mô hình chỉ biết người lớn"],
  [`no body part is given, and nothing in the description says chest: ${FRONTAL}`, `không ghi vùng chụp, mô tả không nói là ngực: ${ONLY}`],
  [`neither body part nor description is given: ${FRONTAL}`, `không ghi vùng chụp và mô tả: ${ONLY}`],
  [`lateral or oblique view \\([^:]+: (.+)\\): ${FRONTAL}( read)?`, `phim nghiêng hoặc chếch ({1}): ${ONLY}`],
  [`frontal or lateral cannot be told \\([^:]+: (.+)\\): ${FRONTAL}`, `không rõ phim thẳng hay nghiêng ({1}): ${ONLY}`],
  [`the image does not look like a frontal chest radiograph: ${FRONTAL} read`, `ảnh không giống phim ngực thẳng: ${ONLY}`],
  ["the image may be turned on its side or upside down.*", "ảnh có thể bị xoay ngang hoặc lộn ngược, không rõ chiều nào"],
  ["black and white may be exchanged in the image.*", "ảnh có thể bị đảo đen trắng, không xác định được"],
  ["the image shows only a part of the chest.*", "ảnh chỉ có một phần lồng ngực: mô hình chỉ biết phim đủ lồng ngực"],
  ["the image looks like the chest of a child.*", "ảnh giống phim ngực trẻ em: mô hình chỉ biết người lớn"],
  ["the image is saturated: (.+) of it is plain white", "ảnh quá sáng: {1} diện tích trắng hoàn toàn"],
  ["the image is underexposed: (.+) of it is plain black", "ảnh quá tối: {1} diện tích đen hoàn toàn"],
  ["the image has too few grey levels.*", "ảnh có quá ít mức xám để thấy được lồng ngực"],
  ["the image shows nothing but noise", "ảnh chỉ có nhiễu"],
  ["an image of less than 64 pixels a side.*", "ảnh nhỏ hơn 64 điểm ảnh mỗi cạnh"],
  ["the image lay on its side, its top to the left.*", "ảnh nằm ngang (đầu quay sang trái) đã được xoay thẳng"],
  ["the image lay on its side, its top to the right.*", "ảnh nằm ngang (đầu quay sang phải) đã được xoay thẳng"],
  ["the image was upside down.*", "ảnh lộn ngược đã được xoay thẳng"],
  ["black and white were exchanged.*", "ảnh đảo đen trắng đã được đảo lại"],
  ["the image is blank.*", "ảnh trống: mọi điểm ảnh có cùng giá trị"],
  ["the image has no contrast", "ảnh không có độ tương phản"],
  ["the pixel data is truncated.*", "dữ liệu ảnh bị cắt cụt"],
  ["the image cannot be decoded.*", "không giải mã được ảnh"],
].map(([english, vietnamese]) => [new RegExp(`^${english}$`, "s"), vietnamese]);

// The Vietnamese sentence, or null where there is none.
export function reasonInVietnamese(reason) {
  for (const [pattern, sentence] of REASONS_VI) {
    const found = pattern.exec(reason);
    if (found) return sentence.replace(/\{(\d)\}/g, (_, place) => found[Number(place)]);
  }
  return null;
}
