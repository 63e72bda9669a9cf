//! Values as messages show them: enough of them to recognise, never megabytes.

/// Of a value, 80 characters.
pub fn value(value: &str) -> String {
    first(80, value)
}

/// The first characters of a text, and how long it is where there are more.
pub fn first(characters: usize, text: &str) -> String {
    let mut shown: String = text.chars().take(characters).collect();
    if shown.len() < text.len() {
        shown.push_str(&format!("… ({} bytes)", text.len()));
    }
    shown
}
